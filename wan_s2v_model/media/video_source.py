"""What goes into a video file: frames in batches, and their sound."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .frame_rate import exact_rate
from .pictures import COLOURS, require_pictures
from .sound import fold_down


class VideoSource(NamedTuple):
    """Frames and sound of a video that is to be written.

    Attributes:
        frames: batches of [T, H, W, 3], uint8 or float in [0, 1]. sound: [C, T] with C of 1 or 2, and its rate in Hz.
    """

    width: int
    height: int
    fps: Fraction
    frames: Iterator[Tensor]
    sound: tuple[Tensor, int] | None


def source_of_images(images: Tensor, audio: dict[str, Any] | None, fps: float | Fraction) -> VideoSource:
    """IMAGE and AUDIO as a source.

    Raises:
        ValueError: there is no colour picture, or NaN or infinite values are in pictures or sound.
    """
    require_pictures(images=images)
    height, width = images.shape[1:3]
    return VideoSource(width, height, exact_rate(fps), iter([images[..., :COLOURS]]), None if audio is None else _sound(audio))


def _sound(audio: dict[str, Any]) -> tuple[Tensor, int]:
    waveform = audio["waveform"][0].float().cpu()
    if not torch.isfinite(waveform).all():
        raise ValueError("The audio contains NaN or infinite samples. Check the node that made it.")
    return fold_down(waveform), int(audio["sample_rate"])
