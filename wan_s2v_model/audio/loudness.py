"""Loudness of a programme in LUFS by ITU-R BS.1770 (EBU R128), and the gain that brings a sound to a wanted one."""

import logging
import math

import torch
from torch import Tensor

from ..media.sound import pieces

logger = logging.getLogger("wan_s2v")

# The two filters of the standard, as analog prototypes, so that they hold for every sample rate.
SHELF_HZ, SHELF_GAIN_DB, SHELF_Q, SHELF_SLOPE = 1681.974450955533, 3.999843853973347, 0.7071752369554196, 0.4996667741545416
HIGHPASS_HZ, HIGHPASS_Q = 38.13547087602444, 0.5003270373238773
OFFSET_DB = -0.691  # of the standard: a 997 Hz sine at full scale in one channel reads -3.01
HOPS_PER_SECOND, HOPS_PER_BLOCK = 10, 4  # blocks of 400 ms, every 100 ms
ABSOLUTE_GATE = -70.0  # LUFS; quieter blocks do not count
RELATIVE_GATE = -10.0  # LU below the mean of the blocks that passed the absolute gate
PIECE_HOPS = 600  # filtered at once: 60 s
SETTLING_S = 2  # far longer than the filters ring
HIGHEST_PEAK = 10 ** (-1 / 20)  # of a sound that is made louder: 1 dB below full scale, as EBU R128 asks for


def integrated_loudness(waveform: Tensor, sample_rate_hz: int) -> float:
    """Gated loudness of a whole sound.

    Args:
        waveform: [1 or 2, T] in -1..1.
    Returns:
        LUFS; minus infinity for silence and for sounds shorter than 0.4 s.
    """
    hops = _hop_energies(waveform, sample_rate_hz)
    if hops.shape[0] < HOPS_PER_BLOCK:
        return -math.inf
    blocks = hops.unfold(0, HOPS_PER_BLOCK, 1).mean(dim=1)
    loud = blocks[blocks > _energy(ABSOLUTE_GATE)]
    if loud.numel() == 0:
        return -math.inf
    return _lufs(loud[loud > loud.mean() * 10 ** (RELATIVE_GATE / 10)].mean().item())


def bring_to_loudness(name: str, waveform: Tensor, sample_rate_hz: int, target: float) -> Tensor:
    """Scale a sound [C, T] to `target` LUFS; it is never made louder than its peaks allow. The log says what was done to `name`."""
    measured = integrated_loudness(waveform, sample_rate_hz)
    if measured == -math.inf:
        logger.warning("%s is silent or shorter than 0.4 s: it has no loudness and stays as it is", name)
        return waveform
    wanted = 10 ** ((target - measured) / 20)
    gain = min(wanted, max(1.0, HIGHEST_PEAK / waveform.abs().max().item()))
    reached = measured + 20 * math.log10(gain)
    logger.info("%s: %.1f LUFS, now %.1f", name, measured, reached)
    if gain < wanted:
        logger.warning("%s: its peaks allow no more than %.1f LUFS; use a compressor or limiter node for %.1f", name, reached, target)
    return waveform * gain


def _hop_energies(waveform: Tensor, sample_rate_hz: int) -> Tensor:
    """[C, T] -> [hops] float64: sum over the channels of the mean square behind the filters, each 100 ms."""
    hop, settling = round(sample_rate_hz / HOPS_PER_SECOND), SETTLING_S * sample_rate_hz
    energies = []
    for own in pieces(waveform.shape[1] // hop * hop, PIECE_HOPS * hop):
        before = min(own.start, settling)
        filtered = _k_weighted(waveform[:, own.start - before : own.stop], sample_rate_hz, settling)[:, before:]
        energies.append(filtered.unflatten(1, (-1, hop)).double().square().mean(dim=2).sum(dim=0))
    return torch.cat(energies) if energies else torch.zeros(0, dtype=torch.float64)


def _k_weighted(waveform: Tensor, sample_rate_hz: int, settling: int) -> Tensor:
    """Both filters at once on the spectrum; zeros behind the sound take up what rings on."""
    length = waveform.shape[1] + settling
    turn = torch.exp(-2j * math.pi * torch.arange(length // 2 + 1, dtype=torch.float64) / length)  # z^-1 on the unit circle
    response = torch.ones_like(turn)
    for numerator, denominator in k_weighting(sample_rate_hz):
        response *= _polynomial(numerator, turn) / _polynomial(denominator, turn)
    spectrum = torch.fft.rfft(waveform.float(), length) * response.to(torch.complex64)
    return torch.fft.irfft(spectrum, length)[:, : waveform.shape[1]]


def k_weighting(sample_rate_hz: int) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]:
    """The standard's shelf and high-pass as (numerator, denominator) in powers of z^-1; its own tables are for 48 kHz."""
    k = math.tan(math.pi * SHELF_HZ / sample_rate_hz)
    high = 10 ** (SHELF_GAIN_DB / 20)
    middle = high**SHELF_SLOPE * k / SHELF_Q
    scale = 1 + k / SHELF_Q + k * k
    shelf = (high + middle + k * k) / scale, 2 * (k * k - high) / scale, (high - middle + k * k) / scale
    return (shelf, _poles(k, SHELF_Q)), ((1.0, -2.0, 1.0), _poles(math.tan(math.pi * HIGHPASS_HZ / sample_rate_hz), HIGHPASS_Q))


def _poles(k: float, q: float) -> tuple[float, float, float]:
    scale = 1 + k / q + k * k
    return 1.0, 2 * (k * k - 1) / scale, (1 - k / q + k * k) / scale


def _polynomial(coefficients: tuple[float, ...], turn: Tensor) -> Tensor:
    return coefficients[0] + coefficients[1] * turn + coefficients[2] * turn.square()


def _lufs(energy: float) -> float:
    return OFFSET_DB + 10 * math.log10(energy)


def _energy(lufs: float) -> float:
    return 10 ** ((lufs - OFFSET_DB) / 10)
