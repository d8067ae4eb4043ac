"""The part of an AUDIO that is used, checked, and at the wanted loudness."""

import logging
import math
from typing import Any, NamedTuple

import torch

from ..constants import VIDEO_FPS
from ..media.sound import fold_down
from .features import SHORTEST_SOUND_S
from .loudness import bring_to_loudness

logger = logging.getLogger("wan_s2v")

SILENT_PEAK = 1e-4  # amplitude


class Sound(NamedTuple):
    waveform: torch.Tensor  # [C, T]
    sample_rate_hz: int

    @property
    def seconds(self) -> float:
        return self.waveform.shape[1] / self.sample_rate_hz


def select_sounds(
    audio: dict[str, Any] | None, driving_audio: dict[str, Any] | None, start: float, duration: float, loudness: float
) -> tuple[Sound, Sound]:
    """The sound that the video plays and the one that the model hears, the same where no other one drives it.

    Args:
        audio, driving_audio: AUDIO. start, duration: seconds; a duration of 0 lasts to the end. loudness: LUFS, 0 leaves it as it is.
    """
    played = heard = select("audio", audio, start, duration, loudness)
    if driving_audio is not None:
        heard = select("driving_audio", driving_audio, start, duration, loudness)
        _compare_lengths(played, heard)
    if heard.waveform.abs().max() < SILENT_PEAK:
        logger.warning("the selected audio is silent; the mouth will hardly move")
    return played, heard


def select(name: str, audio: dict[str, Any] | None, start: float, duration: float, loudness: float = 0.0) -> Sound:
    """Part of the first item of an AUDIO's [B, C, T] waveform, checked, mono or stereo; at the wanted loudness unless that is 0."""
    if audio is None:
        raise ValueError(f"There is no {name}: the video that it comes from has no sound. Connect a sound.")
    waveform, sample_rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.shape[0] > 1:
        logger.warning("%s holds %d sounds; only the first one is used", name, waveform.shape[0])
    whole = waveform[0].float().cpu()
    if whole.numel() == 0:
        raise ValueError(f"The {name} is empty. Connect a sound that lasts at least {SHORTEST_SOUND_S} s.")
    first = round(start * sample_rate)
    part = whole[:, first : first + round(duration * sample_rate)] if duration > 0 else whole[:, first:]
    if part.shape[1] == 0:
        raise ValueError(
            f"Nothing is selected: start {start:g} s lies behind the end of the {name} ({whole.shape[1] / sample_rate:.2f} s). "
            "Choose an earlier start."
        )
    low, high = (extreme.item() for extreme in part.aminmax())  # NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"The {name} contains NaN or infinite samples. Load it again or check the node that made it.")
    part = fold_down(part).clone()
    return Sound(part if loudness == 0 else bring_to_loudness(name, part, sample_rate, loudness), sample_rate)


def _compare_lengths(played: Sound, heard: Sound) -> None:
    """Say when the driving track ends earlier or later than the sound that is played, by half a frame or more."""
    missing = played.seconds - heard.seconds
    if missing >= 0.5 / VIDEO_FPS:
        logger.warning("driving_audio ends %.2f s before audio: in the rest the model hears the silence of `silence`", missing)
    elif missing <= -0.5 / VIDEO_FPS:
        logger.info("driving_audio is %.2f s longer than audio: the rest is not heard", -missing)
