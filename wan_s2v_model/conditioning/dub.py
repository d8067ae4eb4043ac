"""A video that is given another sound: what of its pictures is kept, what the sampler is told of it, and the way back into the video.

Pictures are found by time, as the model has a frame rate of its own. A picture that is wanted twice in a clip is read once, and no more
than the pictures of one clip are in memory.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import SPATIAL_STRIDE, TEMPORAL_STRIDE, VIDEO_FPS
from ..media.video_reader import hdr_note
from ..media.video_source import constant_rate
from .clip import KeptSource
from .picture import fit_back, fit_frames, shown_part
from .pose import PoseImages
from .timeline import Timeline

logger = logging.getLogger("wan_s2v")

HOLD, LOOP = DUB_ENDS = ("hold", "loop")
WHOLE, AROUND = DUB_PARTS = ("whole picture", "around the mask")
PART_SIDE = 3  # times the longer side of the mask
CONTEXT_FRAMES = 17  # of the source in front of a clip, which the causal encoder sees first
CONTEXT_LATENTS = (CONTEXT_FRAMES + 3) // TEMPORAL_STRIDE
KEPT_SHADE = 0.35  # of what stays as it is, in a picture of the plan
AT_ONCE = 8  # pictures that are read together
LEVELS = 255
FAINT = 1.5 / LEVELS  # of a mask: loaders give what is opaque in WebP, GIF and grey pictures as 1 / 257
Encode = Callable[[Tensor], Tensor]
Part = tuple[slice, slice]  # rows and columns


class SourceVideo(Protocol):
    """Pictures with the seconds at which they appear, the first at 0; a VideoReader is one.

    Attributes:
        late_s: seconds before the first picture. hdr: as of VideoReader.
        file: source, start and length of the part, None for pictures in memory.
    """

    times: list[Fraction]
    late_s: Fraction
    rounded_down: bool
    hdr: str

    @property
    def duration_s(self) -> Fraction: ...

    @property
    def fps(self) -> Fraction: ...

    @property
    def file(self) -> tuple[str | BytesIO, float, float] | None: ...

    def read_levels(self, pictures: Sequence[int]) -> Tensor:
        """[len(pictures), H, W, 3] uint8."""

    def close(self) -> None: ...


class SourceImages(PoseImages):
    """A source whose frames [T, H, W, 3] are in memory."""

    late_s = Fraction(0)
    rounded_down = False
    hdr = ""
    file = None

    def read_levels(self, pictures: Sequence[int]) -> Tensor:
        return (self.read(pictures) * LEVELS).round().to(torch.uint8)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class Dub:
    """A video, and what of it may change; `checked_dub` makes one.

    Attributes:
        mask: [1 or pictures, H, W] in [0, 1]; 0 is kept. feather_px: width of the soft edge inside of the mask.
        strength: 1 begins from noise inside of the mask, less from the source. part: what the model is shown.
        end: what stands behind the last picture, one of DUB_ENDS. loop_s: length of the last part that is played back and forth.
    """

    video: SourceVideo
    mask: Tensor
    feather_px: int = 16
    strength: float = 1.0
    end: str = HOLD
    loop_s: float = 2.0
    part: Part = (slice(None), slice(None))

    @property
    def settings(self) -> str:
        """All but the video and the mask, for the fingerprint of a run."""
        rows, columns = self.part
        loop = f" {self.loop_s} s" if self.end == LOOP else ""
        return f"feather {self.feather_px} part {rows.start}:{rows.stop} {columns.start}:{columns.stop} at end {self.end}{loop}"

    @property
    def seconds(self) -> Fraction:
        """Length of the source."""
        return self.video.late_s + self.video.duration_s

    def picture_at(self, second: Fraction) -> int:
        """Number of the picture on screen at a second of the dubbed video."""
        return max(0, bisect_right(self.video.times, self._source_second(second) - self.video.late_s) - 1)

    def _source_second(self, second: Fraction) -> Fraction:
        if second < self.seconds:
            return second
        if self.end == HOLD:
            return self.seconds
        part = min(Fraction(self.loop_s), self.seconds)
        behind = (second - self.seconds) % (2 * part)
        return self.seconds - behind if behind < part else self.seconds - 2 * part + behind

    def read(self, pictures: Sequence[int]) -> Tensor:
        """Whole pictures by their numbers in any order, [len(pictures), H, W, 3] uint8."""
        unique = sorted(set(pictures))
        return self.video.read_levels(unique)[[unique.index(number) for number in pictures]]

    def mask_of(self, picture: int) -> Tensor:
        """[H, W] of the part; that of picture 0 where one mask holds for all."""
        return self.part_of(self.mask)[picture]

    def part_of(self, pictures: Tensor) -> Tensor:
        """Of [T, H, W, ...] what the model is shown."""
        rows, columns = self.part
        return pictures[:, rows, columns]

    def shown_in(self, height: int, width: int) -> Part:
        """What a video of this size shows of the part."""
        own_height, own_width = self.mask_of(0).shape
        return shown_part(own_height, own_width, height, width)

    def require_video(self, fps: int, sync_mode: str, height: int, width: int) -> None:
        """Raise ValueError if it cannot become such a video.

        That is: at the rate of a live video; in mode `official`, which shows black beside the picture; where nothing that may change is
        seen.
        """
        if fps != VIDEO_FPS:
            raise ValueError(
                f"Dubbing a video makes {VIDEO_FPS} frames per second, and this plan has {fps}. Set frame_rate to {VIDEO_FPS} "
                "in Encode Audio (Wan S2V)."
            )
        if sync_mode != "aligned":
            raise ValueError(f"A video is dubbed with sync_mode aligned, got {sync_mode}. Set it in Prepare Video (Wan S2V).")
        rows, columns = self.shown_in(height, width)
        if not (self.part_of(self.mask)[:, rows, columns] > 0).any():
            raise ValueError(
                f"source_mask lies outside of what is seen in a video of {width}x{height}: the picture is cropped to its shape. Choose a "
                "size with the shape of the source, or mask what is nearer to the middle."
            )

    def reference(self, second: float) -> Tensor:
        """The part of the picture at a second, [1, h, w, 3] in [0, 1]."""
        picture = self.part_of(self.read([self.picture_at(Fraction(second))]))
        self.video.close()
        return picture.float() / LEVELS


def checked_dub(video: SourceVideo, mask: Tensor | None, part: str, **options: Any) -> Dub:
    """A Dub of a mask as `read_masks` gives it, [1 or pictures, H, W]; without one all of the picture may change.

    Raises:
        ValueError: the mask does not fit the video, or there is nothing to change or to keep.
    """
    height, width = video.read_levels([0]).shape[1:3]
    video.close()
    if mask is None:
        if options["strength"] == 1:
            raise ValueError(
                "Nothing of the source would be kept: there is no source_mask, and strength is 1. Connect a MASK that is white where the "
                "picture may change, such as around the mouth, or set strength below 1."
            )
        mask = torch.ones(1, height, width)
    mask = mask.where(mask > FAINT, 0.0)
    if problem := _mask_problem(mask, height, width, len(video.times)):
        raise ValueError(problem)
    return Dub(video, mask, part=_part_around(mask) if part == AROUND else (slice(0, height), slice(0, width)), **options)


def _mask_problem(mask: Tensor, height: int, width: int, num_pictures: int) -> str | None:
    if not (mask > 0).any():
        return (
            "source_mask is empty: nothing of the video may change. Paint what may change, for example the mouth and the chin, on a "
            "picture of the video (right click on Load Image: Open in MaskEditor)."
        )
    if tuple(mask.shape[1:]) != (height, width):
        return (
            f"source_mask is {mask.shape[2]}x{mask.shape[1]}, and the pictures of source_video are {width}x{height}. Paint the mask on a "
            "picture of this video, or scale it to that size."
        )
    if len(mask) not in (1, num_pictures):
        return f"source_mask has {len(mask)} masks, and source_video {num_pictures} pictures. Give one mask, or one for each picture."
    return None


def _part_around(mask: Tensor) -> Part:
    """A square around all that may change, within the picture."""
    used = (mask > 0).any(dim=0)
    spans = list(_spans(used))
    side = PART_SIDE * max(span.stop - span.start for span in spans)
    rows, columns = (_around((span.start + span.stop) // 2, side, length) for span, length in zip(spans, used.shape, strict=True))
    return rows, columns


def _around(middle: int, side: int, length: int) -> slice:
    side = min(side, length)
    start = min(max(0, middle - side // 2), length - side)
    return slice(start, start + side)


def soft_mask(mask: Tensor, feather_px: int) -> Tensor:
    """How much of the new picture is seen: [H, W], 0 outside of the mask, rising inside of it from its edge on."""
    from scipy.ndimage import distance_transform_edt

    inside, weights = mask > 0, mask.clone()
    if feather_px > 0 and inside.any() and not inside.all():
        box = tuple(_spans(inside, margin=1))  # measuring distances in all of a large picture takes long
        distances = torch.from_numpy(distance_transform_edt(inside[box].numpy()).astype(np.float32))
        weights[box] *= distances.div_(feather_px + 1).clamp_(max=1)
    return weights


def _spans(used: Tensor, margin: int = 0) -> Iterator[slice]:
    """Rows and columns of [H, W] that hold all that is used, and so many more where there are more."""
    for axis, length in enumerate(used.shape):
        numbers = torch.nonzero(used.any(dim=1 - axis))
        yield slice(max(0, int(numbers.min()) - margin), min(int(numbers.max()) + 1 + margin, length))


class FittedDub:
    """A dub in the size and the clips of a video."""

    def __init__(self, dub: Dub, timeline: Timeline, height: int, width: int) -> None:
        self.dub = dub
        self._timeline = timeline
        self._size = height, width
        self._reached = dub.shown_in(height, width)
        self._pictures: dict[int, Tensor] = {}  # of the newest clip by their numbers, fitted, uint8
        self._newest_weights: dict[int, Tensor] = {}

    @property
    def fps(self) -> Fraction:
        """Of the finished video: that of the source."""
        return constant_rate(self.dub.video.times, self.dub.video.fps)

    def kept(self, clip: int, encode: Encode) -> KeptSource:
        """What of a clip is kept.

        Args:
            encode: [T, H, W, 3] pixels in [0, 1] -> [1, 16, (T + 3) / 4, h, w] normalised latents.
        """
        first = clip * self._timeline.frames_per_clip - self._timeline.dropped_frames
        numbers = self._numbers(range(first - CONTEXT_FRAMES, first + self._timeline.frames_per_clip))
        latents = encode(self._fitted(numbers).float() / LEVELS)[:, :, CONTEXT_LATENTS:]
        return KeptSource(latents, self._may_change(numbers[CONTEXT_FRAMES:]))

    def composite(self, clip: int, frames: Tensor) -> Tensor:
        """Put the source's own pixels into the frames of a clip where they are kept: [T, H, W, 3] in [0, 1]; they are changed."""
        first = self._timeline.first_frame(clip)
        numbers = self._numbers(range(first, first + len(frames)))
        for frame, source, number in zip(frames, self._fitted(numbers), numbers, strict=True):
            frame.copy_(torch.lerp(source.float() / LEVELS, frame, self._fitted_weights(number)))
        self._forget(numbers[-CONTEXT_FRAMES:])
        return frames

    def finished(self, clips: Iterable[Tensor]) -> Iterator[Tensor]:
        """The dubbed video in the source's size and frame rate, [T, h, w, 3] uint8: its own pixels but inside of the mask.

        Args:
            clips: frames of one clip after the other, [T, H, W, 3] uint8, rounded down.
        """
        fps, timeline = self.fps, self._timeline
        frames, newest, frame = (frame for clip in clips for frame in clip), -1, torch.empty(0)
        count = max(1, round(Fraction(timeline.num_frames, timeline.fps) * fps))
        try:
            for start in range(0, count, AT_ONCE):
                middles = [Fraction(2 * number + 1, 2) / fps for number in range(start, min(start + AT_ONCE, count))]
                numbers = [self.dub.picture_at(middle) for middle in middles]
                pictures = self.dub.read(numbers)
                for picture, number, middle in zip(pictures, numbers, middles, strict=True):
                    while newest < min(int(middle * timeline.fps), timeline.num_frames - 1):
                        newest, frame = newest + 1, next(frames)
                    self._paste(picture[self.dub.part], frame, number)
                yield pictures
        finally:
            self.dub.video.close()

    def notes(self) -> list[str | None]:
        """What to say on the node, None where there is nothing to say."""
        return [self.length_note(), hdr_note(self.dub.video.hdr)]

    def length_note(self) -> str | None:
        """What happens where the sound is longer than the source, in words; None where it is not."""
        video_s, source_s = self._timeline.seconds, float(self.dub.seconds)
        if video_s <= source_s + 0.5 / self._timeline.fps:
            return None
        what = "its last picture stays" if self.dub.end == HOLD else f"its last {self.dub.loop_s:g} s go back and forth"
        return f"the sound lasts {video_s:.2f} s and source_video {source_s:.2f} s: {what} (at_end: {self.dub.end})"

    def marked(self, picture: Tensor) -> Tensor:
        """The fitted picture [H, W, 3] with all but what may change darkened, as the masks are at the beginning."""
        return picture * (KEPT_SHADE + (1 - KEPT_SHADE) * self._fitted_weights(0))

    def _numbers(self, frames: Iterable[int]) -> list[int]:
        """The picture on screen in the middle of each frame of the video; before the start the first one."""
        return [self.dub.picture_at(Fraction(2 * max(0, frame) + 1, 2 * self._timeline.fps)) for frame in frames]

    def _fitted(self, numbers: Sequence[int]) -> Tensor:
        """[len(numbers), H, W, 3] uint8, in the size of the video."""
        missing = sorted(set(numbers) - self._pictures.keys())
        self._forget(numbers)
        for start in range(0, len(missing), AT_ONCE):
            few = missing[start : start + AT_ONCE]
            pixels = self.dub.part_of(self.dub.video.read_levels(few)).float() / LEVELS
            fitted = (fit_frames(pixels, *self._size, cover=True) * LEVELS).round().to(torch.uint8)
            self._pictures.update(zip(few, fitted.unbind(), strict=True))
        self.dub.video.close()
        return torch.stack([self._pictures[number] for number in numbers])

    def _forget(self, numbers: Sequence[int]) -> None:
        """All pictures but these; each has its own memory."""
        self._pictures = {number: self._pictures[number].clone() for number in set(numbers) & self._pictures.keys()}

    def _mask(self, number: int) -> Tensor:
        """[h, w] of the source's part, without what is cropped away in the video."""
        mask = torch.zeros_like(self.dub.mask_of(number))
        mask[self._reached] = self.dub.mask_of(number)[self._reached]
        return mask

    def _weights(self, number: int) -> Tensor:
        """The soft mask of a picture, [h, w]; the newest one is kept."""
        number = self._with_mask(number)
        if number not in self._newest_weights:
            self._newest_weights = {number: soft_mask(self._mask(number), self.dub.feather_px)}
        return self._newest_weights[number]

    def _fitted_weights(self, number: int) -> Tensor:
        """[H, W, 1] of the video."""
        return self._fit_mask(self._weights(number))[..., None]

    def _fit_mask(self, mask: Tensor) -> Tensor:
        """[h, w] of the source's part -> [H, W] of the video."""
        return fit_frames(mask[None, ..., None], *self._size, cover=True, outside=0.0)[0, ..., 0]

    def _with_mask(self, number: int) -> int:
        """The picture whose mask holds for a picture."""
        return number if len(self.dub.mask) > 1 else 0

    def _may_change(self, numbers: Sequence[int]) -> Tensor:
        """[1, 1, F, H / 8, W / 8]: whether any pixel of a latent may change."""
        areas: dict[int, Tensor] = {}
        for number in set(map(self._with_mask, numbers)):
            inside = self._fit_mask((self._mask(number) > 0).float()) > 0
            areas[number] = F.max_pool2d(inside.float()[None], SPATIAL_STRIDE)[0] > 0
        per_frame = torch.stack([areas[self._with_mask(number)] for number in numbers])
        return per_frame.unflatten(0, (-1, TEMPORAL_STRIDE)).any(dim=1)[None, None]

    def _paste(self, picture: Tensor, frame: Tensor, number: int) -> None:
        """Put what may change of a frame of the video into a picture of the source, [h, w, 3] uint8."""
        weights = self._weights(number)
        if not (weights > 0).any():
            return
        rows, columns = _spans(weights > 0)
        height, width = weights.shape
        new = fit_back(frame.float(), height, width, rows, columns).clamp_(0, LEVELS)
        mixed = torch.lerp(picture[rows, columns].float(), new, weights[rows, columns, None])
        picture[rows, columns] = mixed.round().to(torch.uint8)
