"""Where in the picture each speaker is: masks, fitted as the picture is, become weights of the video tokens.

A token is 16 x 16 pixels of 4 frames. Without soft edges it belongs to the one who has most of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..audio.speakers import Box, Speaker, Speakers
from ..constants import PATCH_SIZE, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..origin import digest, made_of
from .picture import fit_frames
from .timeline import Timeline

TOKEN_PX = PATCH_SIZE[2] * SPATIAL_STRIDE
CELL_PX = 4  # in which edges are softened and the nearest speaker is found
MOST_OVERLAP = 0.01  # of the smaller of two regions; less is divided between them


@dataclass(frozen=True)
class SpeakerRegions:
    """How much of each token the speakers have.

    Attributes:
        shares: [speakers + 1, T, height / 16, width / 16], they add up to 1; behind the speakers what nobody has. T masks by time, or one.
        nobody: what is heard there, one of NOBODY. is_hard: each token belongs to one alone. mask_fps: of moving masks.
    """

    shares: Tensor
    nobody: str
    is_hard: bool
    mask_fps: float

    def of_clip(self, timeline: Timeline, clip: int) -> Tensor:
        """How much each token hears each speaker and, at the end, silence: [speakers + 1, F, height / 16, width / 16]."""
        shares = self.shares[:, self._masks_of(timeline, clip)]
        shares = shares.unflatten(1, (-1, TEMPORAL_STRIDE)).mean(dim=2)  # [speakers + 1, 4F, ...] -> [speakers + 1, F, ...]
        if self.is_hard:
            shares = F.one_hot(shares.argmax(dim=0), len(shares)).movedim(-1, 0).float()
        speakers, nobody = shares[:-1], shares[-1:]
        if self.nobody == "silence":
            return shares
        given = {"everybody": 1 / len(speakers), "everybody added": 1.0}.get(self.nobody, 0.0)
        return torch.cat([speakers + given * nobody, torch.zeros_like(nobody)])

    def _masks_of(self, timeline: Timeline, clip: int) -> list[int]:
        """Which mask is shown in each slot of a clip; the last one stays."""
        start = clip * timeline.frames_per_clip - timeline.dropped_frames
        frames = (max(0, start + slot) for slot in range(timeline.frames_per_clip))
        last = self.shares.shape[1] - 1
        return [min(last, int((frame + 0.5) / timeline.fps * self.mask_fps)) for frame in frames]


def speaker_regions(speakers: Speakers, picture: tuple[int, int], height: int, width: int, *, cover: bool) -> SpeakerRegions:
    """Fit the regions of all speakers as `fit_image` fits the picture.

    Args:
        picture: its height and width in pixels, before it is fitted. height, width: of the video.
    Raises:
        ValueError: a region has another size than the picture, is empty, overlaps with another one, or is too small for a token.
    """
    masks = [_mask(speaker, picture) for speaker in speakers.speakers]
    fitted = _fitted(masks, height, width, cover)
    shares = torch.stack([_shares(each, speakers) for each in _checked(fitted, speakers.speakers)], dim=1)
    made_of(shares, f"regions {digest(*masks)} {width}x{height} {cover} {speakers.nobody} {speakers.feather_px}")
    regions = SpeakerRegions(shares, speakers.nobody, speakers.feather_px == 0, speakers.mask_fps)
    owners = shares.argmax(dim=0)
    for index, speaker in enumerate(speakers.speakers):
        if not (owners == index if regions.is_hard else shares[index] > 0).any():
            raise ValueError(
                f"The region of speaker {speaker.number} fills no square of {TOKEN_PX} pixels of the video of {width}x{height}, or lies "
                "where the video shows nothing of the picture. Make it larger, or choose a larger size."
            )
    return regions


def _mask(speaker: Speaker, picture: tuple[int, int]) -> Tensor:
    """[T, H, W] in 0..1 on the picture."""
    height, width = picture
    region, name = speaker.region, f"The region of speaker {speaker.number}"
    if isinstance(region, Box):
        left, top, right, bottom = region.pixels(height, width)
        if right <= left or bottom <= top:
            raise ValueError(f"{name} lies outside of the picture, which has {width}x{height} pixels. Move the box.")
        mask = torch.zeros(1, height, width)
        mask[:, top:bottom, left:right] = 1
        return mask
    if not bool((region >= 0.5).any()):
        raise ValueError(f"The mask of speaker {speaker.number} is empty. Draw where the speaker is.")
    if tuple(region.shape[1:]) != picture:
        raise ValueError(
            f"The mask of speaker {speaker.number} has {region.shape[2]}x{region.shape[1]} pixels, and the picture {width}x{height}. "
            "Draw it on the same picture, or resize it to that size."
        )
    return region


def _fitted(masks: Sequence[Tensor], height: int, width: int, cover: bool) -> Iterator[Tensor]:
    """[speakers, height, width] for each moment of the one that moves longest; the last mask of the others stays."""
    for number in range(max(map(len, masks))):
        now = torch.stack([mask[min(number, len(mask) - 1)] for mask in masks])
        yield fit_frames(now[..., None], height, width, cover=cover, outside=0.0)[..., 0].clamp(0, 1)


def _checked(fitted: Iterator[Tensor], speakers: Sequence[Speaker]) -> Iterator[Tensor]:
    """The masks, once it is known that they do not overlap."""
    for masks in fitted:
        areas = masks.flatten(1).sum(dim=1)
        for one in range(len(masks)):
            for other in range(one):
                share = float((masks[one] + masks[other] - 1).clamp(min=0).sum() / areas[[one, other]].min().clamp(min=1))
                if share > MOST_OVERLAP:
                    raise ValueError(
                        f"The regions of speakers {speakers[other].number} and {speakers[one].number} overlap: {100 * share:.0f} % of the "
                        "smaller one is in both. Erase that part in one of them."
                    )
        yield masks


def _shares(masks: Tensor, speakers: Speakers) -> Tensor:
    """[speakers, height, width] -> [speakers + 1, height / 16, width / 16]."""
    masks = F.avg_pool2d(masks / masks.sum(dim=0).clamp(min=1), CELL_PX)
    nobody = 1 - masks.sum(dim=0, keepdim=True).clamp(max=1)
    if speakers.nobody == "nearest":
        masks, nobody = masks + nobody * _nearest(masks), torch.zeros_like(nobody)
    shares = torch.cat([masks, nobody])
    if speakers.feather_px:
        shares = _blurred(shares, max(1, round(speakers.feather_px / CELL_PX / 2)))
    return F.avg_pool2d(shares, TOKEN_PX // CELL_PX)


def _nearest(masks: Tensor) -> Tensor:
    """1 where a speaker is the nearest, [speakers, rows, columns]."""
    inside = (masks >= 0.5).numpy()
    distances = [np.full(mask.shape, np.inf) if not mask.any() else distance_transform_edt(~mask) for mask in inside]
    nearest = torch.from_numpy(np.stack(distances)).argmin(dim=0)
    return F.one_hot(nearest, len(masks)).movedim(-1, 0).float()


def _blurred(shares: Tensor, reach: int) -> Tensor:
    """Edges become ramps that reach so many cells to either side; at the border of the picture its last cells go on."""
    for axis in ((reach, reach, 0, 0), (0, 0, reach, reach)):
        kernel = (2 * reach + 1 if axis[2] else 1, 2 * reach + 1 if axis[0] else 1)
        shares = F.avg_pool2d(F.pad(shares[None], axis, mode="replicate"), kernel, stride=1)[0]
    return shares
