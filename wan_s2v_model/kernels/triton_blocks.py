"""Triton kernels for what is memory-bound: each reads its rows once and writes them once. The eager twins are in `fused.py`."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NUM_WARPS = 8
CHUNK, CHUNK_WARPS = 1024, 4  # of rows that are rotated or end in float8: no value moves to another thread between load and store
FLOAT8_MAX = tl.constexpr(448.0)  # of float8_e4m3fn
TINY = tl.constexpr(1e-12)  # a row of zeros has a scale too
HEAD_ROWS = 64  # tokens of one head that a program takes at once


@triton.jit
def _store_float8_row(chunks, values_ptr, scale_ptr, row, dim, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    peaks = tl.abs(chunks[0])
    for index in tl.static_range(1, CHUNKS):
        peaks = tl.maximum(peaks, tl.abs(chunks[index]))
    peak = tl.maximum(tl.max(peaks), TINY)
    tl.store(scale_ptr + row, peak / FLOAT8_MAX)
    for index in tl.static_range(CHUNKS):
        at = index * CHUNK + tl.arange(0, CHUNK)
        tl.store(values_ptr + row * dim + at, (chunks[index] * (FLOAT8_MAX / peak)).to(values_ptr.dtype.element_ty), mask=at < dim)


def _chunk(dim: int) -> int:
    return min(CHUNK, triton.next_power_of_2(dim))


@triton.jit
def _rms_norm_rope(
    x_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    mean_ptr,
    out_ptr,
    length,
    out_length,
    stride,
    dim,
    eps,
    HALF: tl.constexpr,
    HAS_ROPE: tl.constexpr,
    HAS_MEAN: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // out_length, row % out_length * stride
    channel = tl.arange(0, CHUNK)
    chunks = ()
    squares = tl.zeros((CHUNK,), tl.float32)
    for start in tl.static_range(0, CHUNK * CHUNKS, CHUNK):
        at = start + channel
        x = tl.load(x_ptr + (batch * length + token) * dim + at, mask=at < dim, other=0.0).to(tl.float32)
        squares += x * x
        chunks = chunks + (x,)
    factor = 1 / tl.sqrt(tl.sum(squares) / dim + eps)
    if HAS_ROPE:
        angle = token * HALF + tl.arange(0, CHUNK // 2) % HALF
        cos = tl.load(cos_ptr + angle)
        sin = tl.load(sin_ptr + angle)
    for index in tl.static_range(CHUNKS):
        at = index * CHUNK + channel
        x = chunks[index] * factor * tl.load(weight_ptr + at, mask=at < dim, other=0.0).to(tl.float32)
        if HAS_ROPE:
            even, odd = tl.split(tl.reshape(x, (CHUNK // 2, 2)))
            x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (CHUNK,))
        if HAS_MEAN:
            x = x - tl.load(mean_ptr + batch * dim + at, mask=at < dim, other=0.0)
        tl.store(out_ptr + row * dim + at, x.to(out_ptr.dtype.element_ty), mask=at < dim)


def rms_norm_rope(
    x: Tensor,
    weight: Tensor,
    eps: float,
    rope: tuple[Tensor, Tensor] | None,
    out: Tensor,
    *,
    stride: int = 1,
    mean: Tensor | None = None,
) -> None:
    """RMS norm over all channels, then rotation of channel pairs, then `- mean`, of every stride-th token.

    Args:
        x: [B, S, dim] contiguous. weight: [dim]. rope: cos and sin, each [S, head_dim // 2] float32 contiguous, or None; head_dim is a
            power of 2.
        out: [B, ceil(S / stride), dim] contiguous; may be x. Where it is float8, nothing may lie beyond 448.
        mean: [B, dim] float32, or None for 0.
    """
    batch, length, dim = x.shape
    cos, sin = rope or (weight, weight)
    chunk = _chunk(dim)
    _rms_norm_rope[(batch * out.shape[1],)](
        *(x, weight, cos, sin, x if mean is None else mean, out),
        *(length, out.shape[1], stride, dim, eps),
        HALF=1 if rope is None else cos.shape[1],
        HAS_ROPE=rope is not None,
        HAS_MEAN=mean is not None,
        CHUNK=chunk,
        CHUNKS=triton.cdiv(dim, chunk),
        num_warps=CHUNK_WARPS,
    )


@triton.jit
def _add_norm(
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
    row_scale_ptr,
    length,
    dim,
    group_size,
    last_group,
    eps,
    one,
    HAS_Y: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_FLOAT8: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    group = tl.minimum(token // group_size, last_group)
    channel = tl.arange(0, CHUNK)
    sums = ()
    total = tl.zeros((CHUNK,), tl.float32)
    for start in tl.static_range(0, CHUNK * CHUNKS, CHUNK):
        at = start + channel
        inside = at < dim
        x = tl.load(x_ptr + batch * x_batch + token * x_row + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_Y:
            y = tl.load(y_ptr + batch * y_batch + token * y_row + at, mask=inside, other=0.0).to(tl.float32)
            if HAS_GATE:
                y = y * tl.load(gate_ptr + batch * gate_batch + group * gate_group + at, mask=inside, other=0.0).to(tl.float32)
            x = (x + y).to(sum_ptr.dtype.element_ty).to(tl.float32)
            tl.store(sum_ptr + batch * sum_batch + token * sum_row + at, x.to(sum_ptr.dtype.element_ty), mask=inside)
        total += x
        sums = sums + (x,)
    if HAS_NORM:
        mean = tl.sum(total) / dim
        squares = tl.zeros((CHUNK,), tl.float32)
        for index in tl.static_range(CHUNKS):
            centred = tl.where(index * CHUNK + channel < dim, sums[index] - mean, 0.0)
            squares += centred * centred
        factor = 1 / tl.sqrt(tl.sum(squares) / dim + eps)
        norms = ()
        for index in tl.static_range(CHUNKS):
            at = index * CHUNK + channel
            inside = at < dim
            scale = tl.load(scale_ptr + batch * scale_batch + group * scale_group + at, mask=inside, other=0.0).to(tl.float32)
            shift = tl.load(shift_ptr + batch * shift_batch + group * shift_group + at, mask=inside, other=0.0).to(tl.float32)
            normed = (sums[index] - mean) * factor * (one + scale) + shift
            if IS_FLOAT8:
                norms = norms + (tl.where(inside, normed, 0.0),)
            else:
                tl.store(out_ptr + row * dim + at, normed.to(out_ptr.dtype.element_ty), mask=inside)
        if IS_FLOAT8:
            _store_float8_row(norms, out_ptr, row_scale_ptr, row, dim, CHUNK, CHUNKS)


def add_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    total: Tensor,
    norm: tuple[Tensor, Tensor, float] | None,
    out: Tensor | None,
    group_size: int,
    eps: float,
    row_scale: Tensor | None = None,
) -> None:
    """total = x + gate * y, then out = layer_norm(total) * (one + scale) + shift, each token with the rows of its group.

    Args:
        x, total: [B, S, dim] with contiguous channels, may be the same. y: [B, S, dim] or None, which leaves total untouched.
        gate: [B, G or 1, dim] or None for 1. norm: scale and shift [B, G or 1, dim] and the summand `one`, or None for no norm.
        out: [B, S, dim] contiguous. group_size: tokens of a group; the last group takes the rest.
        row_scale: [B, S, 1] float32, the scale of each row where out is float8.
    """
    batch, length, dim = x.shape
    scale, shift, one = (x, x, 0.0) if norm is None else norm
    groups = max(1 if rows is None else rows.shape[1] for rows in (gate, None if norm is None else scale))
    chunk = triton.next_power_of_2(dim) if row_scale is None else _chunk(dim)
    pointers: list[Any] = []
    for tensor in (x, x if y is None else y, x if gate is None else gate, scale, shift, total):
        pointers += [tensor, tensor.stride(0), tensor.stride(1) if tensor.shape[1] > 1 else 0]
    _add_norm[(batch * length,)](
        *pointers,
        x if out is None else out,
        x if row_scale is None else row_scale,
        length,
        dim,
        group_size,
        groups - 1,
        eps,
        one,
        HAS_Y=y is not None,
        HAS_GATE=gate is not None,
        HAS_NORM=norm is not None,
        IS_FLOAT8=row_scale is not None,
        CHUNK=chunk,
        CHUNKS=triton.cdiv(dim, chunk),
        num_warps=NUM_WARPS if row_scale is None else CHUNK_WARPS,
    )


@triton.jit
def _quantise_rows(x_ptr, values_ptr, scale_ptr, dim, HAS_GELU: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < dim
    x = tl.load(x_ptr + row * dim + channel, mask=inside, other=0.0).to(tl.float32)
    if HAS_GELU:
        x = x / (1 + tl.exp2(x * (-2.3022081981443252 - 0.1029432395800235 * x * x)))  # tanh form: 2 sqrt(2 / pi) log2(e); 0.044715 of it
    _store_float8_row((x,), values_ptr, scale_ptr, row, dim, BLOCK, 1)


def quantise_rows(x: Tensor, gelu: bool, values: Tensor, scale: Tensor) -> None:
    """Write each row as float8 and its scale, after GELU (tanh) where asked. x, values: [..., dim], scale: [..., 1], all contiguous."""
    dim = x.shape[-1]
    grid = (x.numel() // dim,)
    _quantise_rows[grid](x, values, scale, dim, HAS_GELU=gelu, BLOCK=triton.next_power_of_2(dim), num_warps=NUM_WARPS)


@triton.jit
def _scale_product(out_ptr, row_scale_ptr, column_scale_ptr, bias_ptr, width, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(out_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    x = x * tl.load(row_scale_ptr + row) * tl.load(column_scale_ptr + column, mask=inside, other=0.0)
    if HAS_BIAS:
        x += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + column, x.to(out_ptr.dtype.element_ty), mask=inside)


def scale_product(out: Tensor, row_scale: Tensor, column_scale: Tensor, bias: Tensor | None) -> None:
    """out = out * row_scale * column_scale + bias. out: [n, width] contiguous. row_scale: [n, 1], column_scale: [width, 1], float32."""
    count, width = out.shape
    chunk = _chunk(width)
    _scale_product[(count, triton.cdiv(width, chunk))](
        *(out, row_scale, column_scale, out if bias is None else bias, width), HAS_BIAS=bias is not None, BLOCK=chunk, num_warps=CHUNK_WARPS
    )


@triton.jit
def _head_tile(x_ptr, mean_ptr, length, stride, dim, HAS_MEAN: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr):
    """Every stride-th token of one head, less their mean, and where each element is; zero behind the last token."""
    token = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)) * stride
    channel = tl.program_id(1) * HEAD_DIM + tl.arange(0, HEAD_DIM)
    batch = tl.program_id(2).to(tl.int64)
    place = (batch * length + token)[:, None] * dim + channel[None, :]
    inside = (token < length)[:, None] & (channel < dim)[None, :]
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_MEAN:
        x = tl.where(inside, x - tl.load(mean_ptr + batch * dim + channel)[None, :], 0.0)
    return x, place, inside


@triton.jit
def _head_peaks(x_ptr, mean_ptr, peaks_ptr, length, stride, dim, HAS_MEAN: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr):
    x, _, _ = _head_tile(x_ptr, mean_ptr, length, stride, dim, HAS_MEAN, HEAD_DIM, ROWS)
    heads, tile = dim // HEAD_DIM, tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    tl.store(peaks_ptr + tile * heads + tl.program_id(1), tl.max(tl.abs(x)))


@triton.jit
def _quantise_heads(x_ptr, mean_ptr, scale_ptr, out_ptr, length, dim, HAS_MEAN: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr):
    x, place, inside = _head_tile(x_ptr, mean_ptr, length, 1, dim, HAS_MEAN, HEAD_DIM, ROWS)
    x = x / tl.load(scale_ptr + tl.program_id(2) * (dim // HEAD_DIM) + tl.program_id(1))
    x = tl.minimum(tl.maximum(x, -FLOAT8_MAX), FLOAT8_MAX)
    tl.store(out_ptr + place, x.to(out_ptr.dtype.element_ty), mask=inside)


def head_peaks(x: Tensor, mean: Tensor | None, heads: int, stride: int) -> Tensor:
    """Largest magnitude of x - mean in tiles of every stride-th token: [B, S, dim] contiguous, [B, dim] float32 -> [B, tiles, heads]."""
    batch, length, dim = x.shape
    tiles = triton.cdiv(triton.cdiv(length, stride), HEAD_ROWS)
    peaks = torch.empty(batch, tiles, heads, dtype=torch.float32, device=x.device)
    sizes = {"HAS_MEAN": mean is not None, "HEAD_DIM": dim // heads, "ROWS": HEAD_ROWS}
    _head_peaks[(tiles, heads, batch)](x, x if mean is None else mean, peaks, length, stride, dim, **sizes)
    return peaks


def quantise_heads(x: Tensor, mean: Tensor | None, scale: Tensor, out: Tensor) -> None:
    """out = (x - mean) / scale. x, out: [B, S, dim] contiguous, out float8. mean: [B, dim], scale: [B, heads], float32."""
    batch, length, dim = x.shape
    heads = scale.shape[1]
    sizes = {"HAS_MEAN": mean is not None, "HEAD_DIM": dim // heads, "ROWS": HEAD_ROWS}
    _quantise_heads[(triton.cdiv(length, HEAD_ROWS), heads, batch)](x, x if mean is None else mean, scale, out, length, dim, **sizes)
