"""The part of an AUDIO that is used, checked, and at the wanted loudness."""

import logging
import math
from typing import Any

from ..media.audio_input import Sound, read_audio
from ..media.sound import SECTION_S, audible_mono, fold_down, is_cancelled
from .features import SHORTEST_SOUND_S
from .loudness import bring_to_loudness

logger = logging.getLogger("wan_s2v")

SILENT_PEAK = 1e-4  # amplitude
NOTICED_S = 0.03  # half a frame


def select_sounds(audio: Any, driving_audio: Any, start: float, duration: float, loudness: float) -> tuple[Sound, Sound]:
    """The sound that the video plays and the one that the model hears, the same where no other one drives it and its channels add up.

    Args:
        audio, driving_audio: AUDIO; the latter may be None. start, duration: seconds; a duration of 0 lasts to the end.
        loudness: LUFS, 0 leaves it as it is.
    """
    played = heard = select("audio", audio, start, duration, loudness)
    if driving_audio is not None:
        heard = select("driving_audio", driving_audio, start, duration, loudness)
        _compare_lengths(played, heard)
    heard = _without_cancelling("audio" if driving_audio is None else "driving_audio", heard)
    if heard.waveform.abs().max() < SILENT_PEAK:
        logger.warning("the selected audio is silent; the mouth will hardly move")
    return played, heard


def select(name: str, audio: Any, start: float, duration: float, loudness: float = 0.0) -> Sound:
    """Part of an AUDIO as `read_audio` takes it, mono or stereo; at the wanted loudness unless that is 0.

    Raises:
        ValueError: it is no AUDIO, empty, ends before `start`, or holds NaN or infinite samples in that part.
    """
    whole, sample_rate = read_audio(name, audio)
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


def _without_cancelling(name: str, heard: Sound) -> Sound:
    """One channel of a sound whose mean, which is what the model hears, would be silent where the file plays loudly."""
    section = SECTION_S * heard.sample_rate_hz
    if not is_cancelled(heard.waveform, section):
        return heard
    logger.warning("the channels of %s are in opposite phase and cancel each other out: the model hears the louder one alone", name)
    return Sound(audible_mono(heard.waveform, section), heard.sample_rate_hz)


def _compare_lengths(played: Sound, heard: Sound) -> None:
    """Say when the driving track ends earlier or later than the sound that is played, by half a frame or more."""
    missing = played.seconds - heard.seconds
    if missing >= NOTICED_S:
        logger.warning("driving_audio ends %.2f s before audio: in the rest the model hears the silence of `silence`", missing)
    elif missing <= -NOTICED_S:
        logger.info("driving_audio is %.2f s longer than audio: the rest is not heard", -missing)
