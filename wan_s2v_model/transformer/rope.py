"""Rotary positions of video, reference and motion tokens."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ..constants import FAR_MOTION_TIMES, MIDDLE_MOTION_TIME, NEAR_MOTION_TIME, REFERENCE_TIME

THETA = 10_000.0


def token_positions(num_latent_frames: int, height: int, width: int, with_motion: bool) -> Tensor:
    """Positions of every token in sequence order: video, reference, then the motion buckets 1x, 2x, 4x.

    Args:
        height, width: size in latents.
    Returns:
        [S, 3] int64 (time, row, column); a negative time is the past.
    """
    rows, columns = height // 2, width // 2
    grids = [
        _grid(range(num_latent_frames), range(rows), range(columns)),
        _grid([REFERENCE_TIME], range(rows), range(columns)),
    ]
    if with_motion:
        grids += [
            _grid([NEAR_MOTION_TIME], range(rows), range(columns)),
            _grid([MIDDLE_MOTION_TIME], _spread(rows, height // 4), _spread(columns, width // 4)),
            _grid(FAR_MOTION_TIMES, _spread(rows, height // 8), _spread(columns, width // 8)),
        ]
    return torch.cat(grids)


def rope_table(positions: Tensor, head_dim: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotation; angles in float64, which not every accelerator has, so on the CPU; result in float32.

    The complex channels of a head are split 22 time, 21 row, 21 column (for head_dim 128).

    Args:
        positions: [S, 3] (time, row, column), on the CPU. device: of the result.
    Returns:
        Two [S, head_dim // 2] float32 tensors.
    """
    angles = []
    for axis, count in enumerate(pairs_of_axes(head_dim)):
        frequencies = THETA ** (-torch.arange(count, dtype=torch.float64) / count)
        angles.append(positions[:, axis, None].double() * frequencies)
    angle = torch.cat(angles, dim=1)
    cos, sin = angle.cos().float(), angle.sin().float()
    return (cos, sin) if device is None else (cos.to(device), sin.to(device))


def pairs_of_axes(head_dim: int) -> tuple[int, int, int]:
    """How many channel pairs of a head turn with time, row and column, in this order."""
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def _spread(size: int, count: int) -> list[int]:
    """The reference spreads pooled tokens over the grid by truncating numpy's linspace."""
    return np.linspace(0, size - 1, count).astype(int).tolist()


def _grid(times: Iterable[int], rows: Iterable[int], columns: Iterable[int]) -> Tensor:
    axes = [torch.as_tensor(list(axis), dtype=torch.int64) for axis in (times, rows, columns)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
