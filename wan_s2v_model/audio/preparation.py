"""What is done to a sound before wav2vec2 hears it, and which of its frames are pauses. Pure tensors, 16 kHz mono."""

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import SAMPLE_RATE_HZ, VIDEO_FPS
from .features import normalise

NORMALISATIONS = ("file", "window")
SILENCES = ("model", "rest", "rest in pauses")

WINDOW_BLOCK = SAMPLE_RATE_HZ // 10  # samples over which the sliding statistics are gathered
WINDOW_REACH = 50  # blocks before and behind: 5 s each
QUIETEST_WINDOW = 0.1  # share of the deviation of the whole file; a pause is raised by no more than 20 dB

LOUD_SHARE = 0.95  # of the frames are no louder than what counts as loud
PAUSE_DB = 35.0  # a frame that far below the loud ones is quiet; the weakest consonants are louder, or shorter than a pause
PAUSE_S = 0.5  # quiet frames in a row that make a pause
PAUSE_MARGIN_S = 0.125  # at either end of a pause that keeps its sound, for breath and closing lips


def length_at_16khz(num_samples: int, sample_rate_hz: int) -> int:
    """Samples that a sound has once it is resampled to 16 kHz."""
    return -(-num_samples * SAMPLE_RATE_HZ // sample_rate_hz)


def prepare_heard(mono: Tensor, num_samples: int, *, normalisation: str = "file", delay_ms: int = 0) -> Tensor:
    """What wav2vec2 is given of a sound [T] at 16 kHz.

    The statistics are those of the part that is heard. Without a delay and with `file` they are the reference's.

    Args:
        num_samples: length of the sound that is played, at 16 kHz; nothing behind it is heard.
        normalisation: one of NORMALISATIONS.
        delay_ms: how much later (or, below 0, earlier) it is heard than played; silence fills the beginning.
    Returns:
        [at most num_samples], with zero mean and unit variance but for the silence.
    """
    delay = delay_ms * SAMPLE_RATE_HZ // 1000
    part = mono[max(0, -delay) : max(0, num_samples - delay)]
    if part.shape[0] == 0:
        return part
    normalised = normalise(part) if normalisation == "file" else normalise_in_windows(part)
    return F.pad(normalised, (delay, 0)) if delay > 0 else normalised


def normalise_in_windows(waveform: Tensor) -> Tensor:
    """Like `normalise`, but by the statistics of about 10 s around each sample, for a voice whose loudness changes.

    They are gathered every 0.1 s and linear in between. A quiet window is raised by no more than 20 dB over the whole file's level, so that
    the noise of a long pause does not become a voice. Sounds of up to 5 s come out as from `normalise`.
    """
    num_samples = waveform.shape[0]
    padding = -num_samples % WINDOW_BLOCK
    blocks = F.pad(waveform, (0, padding)).unflatten(0, (-1, WINDOW_BLOCK))
    counts = torch.full((blocks.shape[0],), float(WINDOW_BLOCK), dtype=torch.float64)
    counts[-1] -= padding
    sums = [_slide(values) for values in (counts, _per_block(blocks), _per_block(blocks.square()))]
    mean = sums[1] / sums[0]
    variance = (sums[2] / sums[0] - mean.square()).clamp_min(QUIETEST_WINDOW**2 * waveform.var(correction=0).item())
    statistics = torch.stack([mean, torch.sqrt(variance + 1e-7)]).float()
    centre, deviation = F.interpolate(statistics[None], scale_factor=WINDOW_BLOCK, mode="linear")[0, :, :num_samples]
    return (waveform - centre).div_(deviation)


def find_pauses(waveform: Tensor, fps: int = VIDEO_FPS) -> frozenset[int]:
    """Frames at `fps` of a sound [T] at 16 kHz in which nobody speaks: quiet ones, at least 0.5 s in a row, without 0.125 s beside sound.

    Music and noise under a voice fill its pauses, so that none are found.
    """
    samples, least, margin = SAMPLE_RATE_HZ // fps, math.ceil(PAUSE_S * fps), math.ceil(PAUSE_MARGIN_S * fps)
    frames = F.pad(waveform, (0, -waveform.shape[0] % samples)).unflatten(0, (-1, samples))
    powers = frames.square().mean(dim=1)
    quiet = (powers <= powers.quantile(LOUD_SHARE) * 10 ** (-PAUSE_DB / 10)).tolist()
    pauses: set[int] = set()
    start = 0
    for is_quiet, run in groupby(quiet):
        end = start + len(list(run))
        if is_quiet and end - start >= least:
            first = start + margin if start > 0 else 0
            last = end - margin if end < len(quiet) else end
            pauses.update(range(first, last))
        start = end
    return frozenset(pauses)


def _per_block(blocks: Tensor) -> Tensor:
    return blocks.sum(dim=1, dtype=torch.float64)


def _slide(values: Tensor) -> Tensor:
    """Sum of the values around each one, fewer at both ends."""
    total = F.pad(values.cumsum(0), (1, 0))
    index = torch.arange(values.shape[0])
    return total[(index + WINDOW_REACH + 1).clamp_max(values.shape[0])] - total[(index - WINDOW_REACH).clamp_min(0)]
