"""Triton kernels for what is memory-bound: each reads its rows once and writes them once. The eager twins are in `fused.py`."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

NUM_WARPS = 8


@triton.jit
def _rms_norm_rope(  # noqa: PLR0913
    x_ptr, weight_ptr, cos_ptr, sin_ptr, length, dim, eps, HALF: tl.constexpr, HAS_ROPE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < dim
    x = tl.load(x_ptr + row * dim + channel, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    x = x * (1 / tl.sqrt(tl.sum(x * x) / dim + eps)) * weight
    if HAS_ROPE:
        even, odd = tl.split(tl.reshape(x, (BLOCK // 2, 2)))
        pair = tl.arange(0, BLOCK // 2)
        angle = (row % length) * HALF + pair % HALF
        cos = tl.load(cos_ptr + angle)
        sin = tl.load(sin_ptr + angle)
        x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (BLOCK,))
    tl.store(x_ptr + row * dim + channel, x.to(x_ptr.dtype.element_ty), mask=inside)


def rms_norm_rope(x: Tensor, weight: Tensor, eps: float, cos: Tensor | None = None, sin: Tensor | None = None) -> None:
    """RMS norm over all channels, then rotation of channel pairs, in place.

    Args:
        x: [B, S, dim] contiguous. weight: [dim]. cos, sin: [S, head_dim // 2] float32 contiguous, or None.
    """
    batch, length, dim = x.shape
    half = 1 if cos is None else cos.shape[1]
    tables = (weight, weight) if cos is None else (cos, sin)
    block = triton.next_power_of_2(dim)
    _rms_norm_rope[(batch * length,)](
        x, weight, *tables, length, dim, eps, HALF=half, HAS_ROPE=cos is not None, BLOCK=block, num_warps=NUM_WARPS
    )


@triton.jit
def _add_norm(  # noqa: PLR0913
    x_ptr,
    x_batch,
    x_row,
    y_ptr,
    y_batch,
    y_row,
    gate_ptr,
    gate_batch,
    gate_group,
    scale_ptr,
    scale_batch,
    scale_group,
    shift_ptr,
    shift_batch,
    shift_group,
    sum_ptr,
    sum_batch,
    sum_row,
    out_ptr,
    length,
    dim,
    group_size,
    last_group,
    eps,
    one,
    HAS_Y: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    group = tl.minimum(token // group_size, last_group)
    channel = tl.arange(0, BLOCK)
    inside = channel < dim
    x = tl.load(x_ptr + batch * x_batch + token * x_row + channel, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        y = tl.load(y_ptr + batch * y_batch + token * y_row + channel, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            y = y * tl.load(gate_ptr + batch * gate_batch + group * gate_group + channel, mask=inside, other=0.0).to(tl.float32)
        x = (x + y).to(sum_ptr.dtype.element_ty).to(tl.float32)
        tl.store(sum_ptr + batch * sum_batch + token * sum_row + channel, x.to(sum_ptr.dtype.element_ty), mask=inside)
    if HAS_NORM:
        mean = tl.sum(x) / dim
        centred = tl.where(inside, x - mean, 0.0)
        normed = centred * (1 / tl.sqrt(tl.sum(centred * centred) / dim + eps))
        scale = tl.load(scale_ptr + batch * scale_batch + group * scale_group + channel, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + batch * shift_batch + group * shift_group + channel, mask=inside, other=0.0).to(tl.float32)
        normed = normed * (one + scale) + shift
        tl.store(out_ptr + row * dim + channel, normed.to(out_ptr.dtype.element_ty), mask=inside)


def add_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    total: Tensor,
    norm: tuple[Tensor, Tensor, float] | None,
    out: Tensor | None,
    group_size: int,
    eps: float,
) -> None:
    """total = x + gate * y, then out = layer_norm(total) * (one + scale) + shift, each token with the rows of its group.

    Args:
        x, total: [B, S, dim] with contiguous channels, may be the same. y: [B, S, dim] or None, which leaves total untouched.
        gate: [B, G, dim] or None for 1. norm: scale and shift [B, G, dim] and the summand `one`, or None for no norm.
        out: [B, S, dim] contiguous. group_size: tokens of a group; the last group takes the rest.
    """
    batch, length, dim = x.shape
    scale, shift, one = (x, x, 0.0) if norm is None else norm
    groups = next((rows.shape[1] for rows in (gate, None if norm is None else scale) if rows is not None), 1)
    pointers: list[Any] = []
    for tensor in (x, x if y is None else y, x if gate is None else gate, scale, shift, total):
        pointers += [tensor, tensor.stride(0), tensor.stride(1) if tensor.shape[1] > 1 else 0]
    _add_norm[(batch * length,)](
        *pointers,
        x if out is None else out,
        length,
        dim,
        group_size,
        groups - 1,
        eps,
        one,
        HAS_Y=y is not None,
        HAS_GATE=gate is not None,
        HAS_NORM=norm is not None,
        BLOCK=triton.next_power_of_2(dim),
        num_warps=NUM_WARPS,
    )
