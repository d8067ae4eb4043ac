"""The sound that other nodes hand over as AUDIO: a mapping with `waveform` [batch, channels, samples] and `sample_rate` in Hz.

Many nodes make it, and not all alike. What is clear is taken, the rest is refused in words, and nothing is guessed.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..untrusted import shown
from .pictures import require_numbers

logger = logging.getLogger("wan_s2v")

KEYS = ("waveform", "sample_rate")
MOST_CHANNELS = 64  # more is another order of dimensions
CHANNELS_LAST = 8  # no more channels than this are taken to stand behind the samples
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 768_000  # below no word is heard, and a filter to 16 kHz is endless
FULL_SCALE = {torch.uint8: 128, torch.int8: 1 << 7, torch.int16: 1 << 15, torch.int32: 1 << 31}
WANTED = "audio must be [batch, channels, samples], float in -1..1 or integers of 8, 16 or 32 bits, with its sample_rate in Hz"


class Sound(NamedTuple):
    """A waveform [C, T] and its rate."""

    waveform: Tensor
    sample_rate_hz: int

    @property
    def seconds(self) -> float:
        return self.waveform.shape[1] / self.sample_rate_hz


def read_audio(name: str, audio: Any) -> Sound:
    """The first sound of an AUDIO, float32 in main memory; NaN and infinite samples are left for the caller, who knows which part counts.

    Taken besides [batch, channels, samples]: [channels, samples], [samples], the channels last where they are clearly that, numpy arrays,
    lists, integers (scaled), and any mapping that gives its values only when asked. A sound above full scale becomes quieter as a whole,
    because a file would clip it.

    Args:
        name: of the input, for messages.
    Raises:
        ValueError: it is no sound, or it is not clear which.
    """
    if audio is None:
        raise ValueError(f"There is no {name}: the video that it comes from has no sound. Connect a sound.")
    if not isinstance(audio, Mapping):
        raise _refusal(name, f"a {type(audio).__name__}")
    values: dict[str, Any] = {}
    for key in KEYS:
        with suppress(KeyError):
            values[key] = audio[key]
    if missing := [key for key in KEYS if key not in values]:
        raise _refusal(name, f"one without {' and '.join(missing)}")
    rate_hz = _whole_rate(name, values["sample_rate"])
    sounds = _batch(name, _tensor(name, values["waveform"]))
    if len(sounds) > 1:
        logger.warning("%s holds %d sounds; only the first one is used", name, len(sounds))
    waveform = _float(name, sounds[0]) if len(sounds) else torch.zeros(1, 0)
    return Sound(_within_full_scale(name, waveform), rate_hz)


def _refusal(name: str, got: str) -> ValueError:
    return ValueError(f"{name}: {WANTED}; got {got}. Look at the node that made it.")


def _whole_rate(name: str, rate: Any) -> int:
    try:
        number = math.nan if isinstance(rate, bool) else float(rate)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # of a tensor with several numbers
        number = math.nan
    if not (LOWEST_RATE_HZ <= number <= HIGHEST_RATE_HZ and number == round(number)):
        raise _refusal(name, f"the sample_rate {shown(rate)}")
    return int(number)


def _tensor(name: str, waveform: Any) -> Tensor:
    if isinstance(waveform, Tensor):
        require_numbers(f"{name}:", waveform, WANTED)
        return waveform.detach()
    try:
        if isinstance(waveform, list | tuple) and waveform and all(isinstance(item, Tensor) for item in waveform):
            return torch.stack([item.detach() for item in waveform])
        array = np.ascontiguousarray(waveform)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refusal(name, "no waveform" if waveform is None else f"a {type(waveform).__name__} that is no array of numbers") from error


def _batch(name: str, waveform: Tensor) -> Tensor:
    """[B, C, T] of any clear shape."""
    shape = list(waveform.shape)
    if waveform.layout != torch.strided or not 1 <= waveform.ndim <= 3:
        raise _refusal(name, f"the shape {shape}")
    sounds = waveform[(None,) * (3 - waveform.ndim)]
    channels, samples = sounds.shape[1:]
    if 0 < samples <= CHANNELS_LAST < channels:
        sounds = sounds.transpose(1, 2)
        logger.info("%s has the shape %s: its channels stand last", name, shape)
    elif channels > MOST_CHANNELS:
        raise _refusal(name, f"the shape {shape}")
    return sounds


def _float(name: str, waveform: Tensor) -> Tensor:
    """[C, T] float32, integers by their full scale."""
    if waveform.dtype in FULL_SCALE:
        offset = 128 if waveform.dtype == torch.uint8 else 0
        logger.info("%s holds integers (%s), scaled to -1..1", name, str(waveform.dtype).removeprefix("torch."))
        return ((waveform.cpu().double() - offset) / FULL_SCALE[waveform.dtype]).float()
    if not waveform.is_floating_point():
        raise _refusal(name, f"samples of the type {str(waveform.dtype).removeprefix('torch.')}, whose full scale is not known")
    return waveform.cpu().float()


def _within_full_scale(name: str, waveform: Tensor) -> Tensor:
    if waveform.numel() == 0:
        return waveform
    peak = max(abs(extreme.item()) for extreme in waveform.aminmax())
    if not math.isfinite(peak):
        peak = waveform.abs().nan_to_num(0.0, posinf=0.0).max().item()
    if peak <= 1:
        return waveform
    logger.warning(
        "%s reaches %.3g times full scale: it becomes quieter by %.1f dB, so that nothing clips", name, peak, 20 * math.log10(peak)
    )
    return waveform / peak
