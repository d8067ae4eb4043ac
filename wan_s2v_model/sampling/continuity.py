"""Takes back the drift of colour and contrast from clip to clip.

A clip continues from the end of the one before, so a small error in brightness, contrast or colour is inherited and grows. Here the
border, the newest quarter of what the next clip will see, is given the statistics of an anchor. The correction rises evenly from nothing
at the oldest of the frames that the next clip sees to its full size at the border. So no two neighbouring frames jump, and the next clip
continues from exactly the frames that are shown.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BORDER_SHARE = 4  # the border is 1/4 of what the next clip sees
GAIN_LIMIT = 1.25  # of contrast per clip, so that a scene that really changes is not torn
LEAST_STD = 1e-4  # a flat picture has none


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each channel, [C]."""

    mean: Tensor
    std: Tensor


def border_statistics(values: Tensor, window: int) -> Statistics:
    """Measure the end of a clip.

    Args:
        values: [T, H, W, C], frames or latents. window: how many of the newest the next clip sees.
    """
    std, mean = torch.std_mean(values[-_border(len(values), window) :], dim=(0, 1, 2), correction=0)
    return Statistics(mean, std)


def match_statistics(values: Tensor, anchor: Statistics, strength: float, window: int) -> Tensor:
    """Give the border of a clip the mean and standard deviation of the anchor, and the frames before it an even share of the correction.

    Args:
        values, window: as in `border_statistics`. strength: 0 changes nothing, 1 takes all of the drift back.
    Returns:
        [T, H, W, C]; all but the newest `window` as they were.
    """
    border = border_statistics(values, window)
    limited = ((anchor.std + LEAST_STD) / (border.std + LEAST_STD)).clamp(1 / GAIN_LIMIT, GAIN_LIMIT)
    gain = 1 + strength * (limited - 1)
    offset = border.mean + strength * (anchor.mean - border.mean) - gain * border.mean
    matched = values.clone()
    weights = correction_weights(len(values), window)
    for value, weight in zip(matched[-len(weights) :], weights, strict=True):  # one by one: a clip of pixels is large
        value += weight * (value * (gain - 1) + offset)
    return matched


def correction_weights(count: int, window: int) -> list[float]:
    """Share of the correction for each of the newest min(count, window) of `count` frames: rising evenly, then 1 on the border."""
    reach = min(count, window)
    rise = reach - _border(count, window) + 1
    return [min(1.0, (index + 1) / rise) for index in range(reach)]


def _border(count: int, window: int) -> int:
    return max(1, min(count, window) // BORDER_SHARE)
