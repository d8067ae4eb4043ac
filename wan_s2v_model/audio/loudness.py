"""Loudness of a programme in LUFS by ITU-R BS.1770 (EBU R128), and the gain that brings a sound to a wanted one."""

import logging
import math

import torch
from torch import Tensor
from torchaudio.functional import highpass_biquad, treble_biquad

from ..media.sound import pieces

logger = logging.getLogger("wan_s2v")

OFFSET_DB = -0.691  # of the standard: a 997 Hz sine at full scale in one channel reads -3.01
SHELF_HZ, SHELF_GAIN_DB, SHELF_Q = 1500.0, 4.0, math.sqrt(0.5)  # of torchaudio.functional.loudness, within 0.05 LU of the standard's
HIGHPASS_HZ, HIGHPASS_Q = 38.0, 0.5
HEADROOM = 8  # torchaudio's filters clip at full scale
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
        filtered = _k_weighted(waveform[:, own.start - before : own.stop].double(), sample_rate_hz)[:, before:]
        energies.append(filtered.unflatten(1, (-1, hop)).square().mean(dim=2).sum(dim=0))
    return torch.cat(energies) if energies else torch.zeros(0, dtype=torch.float64)


def _k_weighted(waveform: Tensor, sample_rate_hz: int) -> Tensor:
    """[C, T] behind the standard's two filters: a shelf for what the head does to treble, and a high-pass."""
    scale = HEADROOM * waveform.abs().max().clamp(min=1.0)
    shelved = treble_biquad(waveform / scale, sample_rate_hz, SHELF_GAIN_DB, SHELF_HZ, SHELF_Q)
    return highpass_biquad(shelved, sample_rate_hz, HIGHPASS_HZ, HIGHPASS_Q) * scale


def _lufs(energy: float) -> float:
    return OFFSET_DB + 10 * math.log10(energy)


def _energy(lufs: float) -> float:
    return 10 ** ((lufs - OFFSET_DB) / 10)
