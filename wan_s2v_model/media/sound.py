"""Sound as a waveform: surround as stereo, stereo as what the model hears, another sample rate."""

import math
from collections.abc import Iterator

import torch
import torchaudio
from torch import Tensor

from ..constants import SAMPLE_RATE_HZ

SHARED = 10 ** (-3 / 20)  # of centre and surrounds, by ITU-R BS.775
LEFT = {  # weights by number of channels, in the order of FFmpeg: front left and right, centre, low frequencies, back, side
    5: (1, 0, SHARED, SHARED, 0),
    6: (1, 0, SHARED, 0, SHARED, 0),
    8: (1, 0, SHARED, 0, SHARED, 0, SHARED, 0),
}
RIGHT = {
    5: (0, 1, SHARED, 0, SHARED),
    6: (0, 1, SHARED, 0, 0, SHARED),
    8: (0, 1, SHARED, 0, 0, SHARED, 0, SHARED),
}
LARGEST_KERNEL = 1_000_000  # taps; 44,100 Hz to 16,000 Hz has 70,560
RESAMPLE_PIECE_S = 60  # longer sounds are resampled in pieces
RESAMPLE_OVERLAP_S = 1  # far more than the filter reaches; whole seconds keep both rates in step
CANCELLED_DB = 9.0  # that a mean is quieter than unrelated channels make it
SECTION_S = 1  # over which a mean is compared with its channels
CANCELLED_SHARE = 0.05  # of the sound's energy, from which on it counts
CHANNELS_PIECE = 64  # channels of a layer that are resampled at once


def fold_down(waveform: Tensor) -> Tensor:
    """[C, T] -> [1 or 2, T]: 5.0, 5.1 and 7.1 become stereo, as a whole quieter where that would clip; other numbers their mean."""
    channels = waveform.shape[0]
    if channels <= 2:
        return waveform
    if channels not in LEFT:
        return audible_mono(waveform, waveform.shape[1] or 1)
    stereo = torch.tensor([LEFT[channels], RIGHT[channels]], dtype=waveform.dtype) @ waveform
    peak = stereo.abs().max().item() if stereo.numel() else 0.0
    return stereo / max(1.0, peak)


def audible_mono(waveform: Tensor, section: int) -> Tensor:
    """[C, T] -> [1, T]: the mean of the channels, or the loudest one where a good part of them cancel each other out, as in opposite phase.

    Args:
        section: samples over which the mean is compared with the channels.
    """
    mono = waveform.mean(dim=0, keepdim=True)
    return mono if not is_cancelled(waveform, section) else waveform[waveform.square().sum(dim=1).argmax()][None]


def is_cancelled(waveform: Tensor, section: int) -> bool:
    """Whether the mean of the channels [C, T] loses what they hold, in sections with more than 5 % of the energy."""
    channels, length = waveform.shape
    if channels == 1 or length == 0:
        return False
    total = lost = 0.0
    for own in pieces(length, section):
        part = waveform[:, own].double()
        energy = part.square().mean(dim=0).sum().item()  # of one channel, on average; unrelated ones have 1 / channels of it in their mean
        total += energy
        if part.mean(dim=0).square().sum().item() < energy / channels * 10 ** (-CANCELLED_DB / 10):
            lost += energy
    return lost > CANCELLED_SHARE * total


def to_mono_16khz(waveform: Tensor, sample_rate_hz: int) -> Tensor:
    """[C, T] at any rate -> [T'] float32 at 16 kHz: mean of the channels, then a band-limited resampling."""
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return waveform.float().mean(dim=0)
    overlap = RESAMPLE_OVERLAP_S * sample_rate_hz
    done = []
    for own in pieces(waveform.shape[1], RESAMPLE_PIECE_S * sample_rate_hz):
        before = min(own.start, overlap)
        mono = waveform[:, own.start - before : own.stop + overlap].float().mean(dim=0)
        resampled = resample(mono, sample_rate_hz, SAMPLE_RATE_HZ)[before * SAMPLE_RATE_HZ // sample_rate_hz :]
        done.append(resampled if own.stop == waveform.shape[1] else resampled[: RESAMPLE_PIECE_S * SAMPLE_RATE_HZ])
    return torch.cat(done)


def resample(mono: Tensor, rate_hz: int, wanted_hz: int) -> Tensor:
    """[..., T] -> [..., T * wanted_hz / rate_hz, rounded up] float32, band-limited.

    torchaudio's kernel has as many taps as the product of both rates without common divisors, gigabytes for 44,099 Hz.
    """
    divisor = math.gcd(rate_hz, wanted_hz)
    up, down = wanted_hz // divisor, rate_hz // divisor
    if up * down <= LARGEST_KERNEL:
        return torchaudio.functional.resample(mono, rate_hz, wanted_hz)
    from scipy.signal import resample_poly

    return torch.from_numpy(resample_poly(mono.numpy(), up, down, axis=-1)).float()


def pieces(length: int, size: int, start: int = 0) -> Iterator[slice]:
    """Slices of at most `size` that cover `start` to `length`."""
    for first in range(start, length, max(1, size)):
        yield slice(first, min(length, first + size))
