"""The size of a video, and how pictures are fitted to it.

Pixels are [T, H, W, 3] float in [0, 1], as ComfyUI passes them; 0.5 is the reference's value 0 (mid-grey).
"""

import logging
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..constants import SIZE_MULTIPLE

logger = logging.getLogger("wan_s2v")

GREY = 0.5
AREAS = {"480P": 480 * 832, "720P": 720 * 1280, "1024x704": 1024 * 704}  # px
CUSTOM_SIZE = "custom"
LEAST_OF_AREA = 0.8  # below which a preset says why
CANDIDATES = 100  # sizes that the reference tries


def choose_size(size: str, image: Tensor, height: int, width: int) -> tuple[int, int]:
    """(height, width) of a video in pixels.

    Args:
        size: one of AREAS, for that area with about the aspect of the image, or CUSTOM_SIZE, for the height and width given.
        image: [T, H, W, C].
    """
    if size != CUSTOM_SIZE:
        return size_within_area(image.shape[1], image.shape[2], AREAS[size])
    if width % SIZE_MULTIPLE or height % SIZE_MULTIPLE:
        logger.info("%dx%d is not a multiple of %d: the far motion history loses its last rows or columns", width, height, SIZE_MULTIPLE)
    return height, width


def size_note(size: str, image: Tensor) -> str | None:
    """What to say where a preset gives much less than its area, because it does not enlarge the picture [T, H, W, C]; else None."""
    height, width = image.shape[1:3]
    if size == CUSTOM_SIZE or height * width > LEAST_OF_AREA * AREAS[size]:
        return None
    return f"{size} is an upper limit: a picture of {width}x{height} is not enlarged. For more, enlarge it first, or choose size custom."


def size_within_area(height: int, width: int, max_area: int) -> tuple[int, int]:
    """The reference's (height, width) for a picture: multiples of 64, about its aspect, at most max_area pixels."""
    area = height * width
    if area <= max_area:
        largest, smallest = 1.0, 0.1
    else:
        b, c = (SIZE_MULTIPLE - 1) * (height + width), (SIZE_MULTIPLE - 1) ** 2 - max_area
        largest = math.sqrt(max_area / area)
        smallest = (-b + math.sqrt(b * b - 2 * area * c)) / (2 * area)
    for i in range(CANDIDATES):
        scale = largest - (largest - smallest) * i / CANDIDATES
        new_height, new_width = (math.ceil(max(1, int(side * scale)) / SIZE_MULTIPLE) * SIZE_MULTIPLE for side in (height, width))
        if new_height * new_width <= max_area:
            return new_height, new_width
    aspect = width / height
    fallback = [_floor_to_multiple(math.sqrt(max_area * ratio)) for ratio in (1 / aspect, aspect)]
    if fallback[0] > height or fallback[1] > width:
        fallback = [_floor_to_multiple(height), _floor_to_multiple(width)]
    return max(SIZE_MULTIPLE, fallback[0]), max(SIZE_MULTIPLE, fallback[1])


def fit_image(image: Tensor, height: int, width: int, *, cover: bool) -> Tensor:
    """Resize (8-bit, antialiased bilinear) and crop a picture around its centre.

    Args:
        image: [H, W, 3]. cover: fill the target; otherwise scale the short side to the short side of the target and
            show black where the picture does not reach, as the reference does.
    Returns:
        [height, width, 3].
    """
    picture = Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    new_height, new_width = _scaled_size(image.shape[0], image.shape[1], height, width, cover)
    picture = picture.resize((new_width, new_height), Image.Resampling.BILINEAR)
    top, left = _crop_offset(new_height, height), _crop_offset(new_width, width)
    picture = picture.crop((left, top, left + width, top + height))  # outside the picture: black
    return torch.from_numpy(np.array(picture)).float() / 255


def fit_frames(frames: Tensor, height: int, width: int, *, cover: bool, outside: float = GREY) -> Tensor:
    """Like fit_image for a pose video or for masks, in float.

    Args:
        frames: [T, H, W, C], of which at most 3 channels are taken. outside: where a picture does not reach; the reference shows mid-grey.
    Returns:
        [T, height, width, C].
    """
    size = _scaled_size(frames.shape[1], frames.shape[2], height, width, cover)
    scaled = F.interpolate(frames[..., :3].float().movedim(-1, 1), size=size, mode="bilinear", antialias=True)  # [T, 3, h, w]
    top, left = _crop_offset(size[0], height), _crop_offset(size[1], width)
    padding = (max(0, -left), max(0, width - size[1] + left), max(0, -top), max(0, height - size[0] + top))
    padded = F.pad(scaled, padding, value=outside)
    top, left = max(0, top), max(0, left)
    return padded[:, :, top : top + height, left : left + width].movedim(1, -1)


def shown_part(height: int, width: int, target_height: int, target_width: int) -> tuple[slice, slice]:
    """Rows and columns of a picture that are seen when it covers the target."""
    scaled = _scaled_size(height, width, target_height, target_width, cover=True)
    sides = zip((height, width), scaled, (target_height, target_width), strict=True)
    rows, columns = (
        slice(math.ceil(_crop_offset(size, target) * side / size), (_crop_offset(size, target) + target) * side // size)
        for side, size, target in sides
    )
    return rows, columns


def fit_back(frame: Tensor, height: int, width: int, rows: slice, columns: slice) -> Tensor:
    """The inverse of fitting with `cover`, for a part of the picture.

    Args:
        frame: [H, W, 3], the fitted picture. height, width: of the picture before. rows, columns: the part of it that is wanted.
    Returns:
        [len(rows), len(columns), 3], bicubic.
    """
    target = frame.shape[0], frame.shape[1]
    scaled = _scaled_size(height, width, target[0], target[1], cover=True)
    sides = zip((height, width), scaled, target, (rows, columns), strict=True)
    y, x = (
        2 * ((torch.arange(part.start, part.stop) + 0.5) * (size / side) - _crop_offset(size, end)) / end - 1  # -1 to 1 over the frame
        for side, size, end, part in sides
    )
    grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)[None]
    planes = frame.movedim(-1, 0)[None]  # [H, W, 3] -> [1, 3, H, W]
    return F.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)[0].movedim(0, -1)


def _scaled_size(height: int, width: int, target_height: int, target_width: int, cover: bool) -> tuple[int, int]:
    if cover:
        scale = max(target_height / height, target_width / width)
        return max(target_height, round(height * scale)), max(target_width, round(width * scale))
    short = min(target_height, target_width)
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def _crop_offset(size: int, target: int) -> int:
    """First pixel of a centred crop; negative where the picture is smaller than the target."""
    return round((size - target) / 2.0) if size >= target else -((target - size) // 2)


def _floor_to_multiple(side: float) -> int:
    return int(side) // SIZE_MULTIPLE * SIZE_MULTIPLE
