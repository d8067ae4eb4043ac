"""Rotary positions of video, reference and motion tokens."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from .constants import FAR_MOTION_TIMES, MIDDLE_MOTION_TIME, NEAR_MOTION_TIME, REFERENCE_TIME

THETA = 10_000.0
CHUNK_ROWS = 17_664  # 832x480 in two: larger products are faster, and the wide rows take 0.5 GB
ALIGNED_ROWS = 16  # slices begin at multiples of it, as the scales of float8 products must
CHUNK_ROWS_KEY = "wan_s2v_chunk_rows"  # in transformer_options: fewer, where memory is short


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


def rope_table(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every rotation; angles in float64, result in float32.

    The complex channels of a head are split 22 time, 21 row, 21 column (for head_dim 128).

    Args:
        positions: [S, 3] (time, row, column).
    Returns:
        Two [S, head_dim // 2] float32 tensors.
    """
    channels = head_dim // 2
    per_axis = (channels - 2 * (channels // 3), channels // 3, channels // 3)
    angles = []
    for axis, count in enumerate(per_axis):
        frequencies = THETA ** (-torch.arange(count, dtype=torch.float64, device=positions.device) / count)
        angles.append(positions[:, axis, None].double() * frequencies)
    angle = torch.cat(angles, dim=1)
    return angle.cos().float(), angle.sin().float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate interleaved channel pairs (2j, 2j+1) in float32.

    Args:
        x: [B, S, H, head_dim].
        cos, sin: [S, head_dim // 2].
        out: where to write the result, may be x; None for new memory.
    Returns:
        [B, S, H, head_dim] in the dtype of x.
    """
    cos, sin = cos[:, None], sin[:, None]  # [S, 1, head_dim // 2]
    out = torch.empty_like(x) if out is None else out
    pairs = out.unflatten(-1, (-1, 2))
    for rows in row_chunks(x.shape[1]):
        even, odd = x[:, rows].to(torch.float32, copy=True).unflatten(-1, (-1, 2)).unbind(-1)
        pairs[:, rows, :, :, 0] = even * cos[rows] - odd * sin[rows]
        pairs[:, rows, :, :, 1] = even * sin[rows] + odd * cos[rows]
    return out


def chunk_size(rows: int, limit: int = CHUNK_ROWS) -> int:
    """Tokens in each of the slices of `row_chunks`; the last one may be smaller."""
    size = math.ceil(rows / math.ceil(rows / limit)) if rows else 1
    return math.ceil(size / ALIGNED_ROWS) * ALIGNED_ROWS


def row_chunks(rows: int, limit: int = CHUNK_ROWS) -> Iterator[slice]:
    """Slices of about equal size, at most `limit` tokens (a multiple of 16): for what is computed token by token, without a copy of all."""
    size = chunk_size(rows, limit)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _spread(size: int, count: int) -> list[int]:
    """The reference spreads pooled tokens over the grid by truncating numpy's linspace."""
    return np.linspace(0, size - 1, count).astype(int).tolist()


def _grid(times: Iterable[int], rows: Iterable[int], columns: Iterable[int]) -> Tensor:
    axes = [torch.as_tensor(list(axis), dtype=torch.int64) for axis in (times, rows, columns)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
