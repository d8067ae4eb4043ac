"""Norms, modulation, gates and rotary positions of the blocks: one pass over memory each where Triton runs, else in plain torch.

Every function here has two implementations that compute the same in float32 and round once: the kernels of `triton_blocks.py`, used on
NVIDIA GPUs after they have shown once that they agree with the other, and the chunked torch code below.
"""

import math
from collections.abc import Callable, Iterator
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .casting import CastWeights, is_changed
from .float8 import FLOAT8, FLOAT8_MAX, MEAN_STRIDE, TINY, Activation, Float8Heads, Float8Rows
from .row_chunks import row_chunks
from .triton_works import kernels_work


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm over the last axis without weights, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def modulated_norm(
    x: Tensor, shift: Tensor, scale: Tensor, group_size: int, eps: float, dtype: torch.dtype, one: float = 1.0
) -> Activation:
    """Layer norm, then `* (one + scale) + shift` with the rows of each token's group.

    Args:
        x: [B, S, dim]. shift, scale: [B, G, dim], one row for every `group_size` tokens; the last group takes the rest.
    Returns:
        [B, S, dim] in `dtype`; rows with scales where that is float8.
    """
    if kernels_work(x.device):
        from . import triton_blocks

        normed, out, row_scale = _room(x, dtype)
        triton_blocks.add_norm(x, None, None, x, (scale, shift, one), out, group_size, eps, row_scale)
        return normed
    normed, out, row_scale = _room(x, dtype)
    for group, rows in _groups(x.shape[1], group_size, shift.shape[1]):
        part = torch.addcmul(shift[:, group, None], layer_norm(x[:, rows], eps), one + scale[:, group, None])
        if row_scale is None:
            out[:, rows] = part
        else:
            rounded = Float8Rows.rounded(part)
            out[:, rows], row_scale[:, rows] = rounded.values, rounded.scale
    return normed


def add_gated(x: Tensor, y: Tensor, gate: Tensor | None, group_size: int, out: Tensor | None = None) -> Tensor:
    """x + gate * y with the gate of each token's group, into `out` (may be x) or a new tensor.

    Args:
        x, y: [B, S, dim]. gate: [B, G, dim], or None for 1.
    Returns:
        [B, S, dim] in the dtype of x.
    """
    out = torch.empty_like(x) if out is None else out
    if kernels_work(x.device):
        from . import triton_blocks

        triton_blocks.add_norm(x, y, gate, out, None, None, group_size, 0.0)
        return out
    for group, rows in _groups(x.shape[1], group_size, 1 if gate is None else gate.shape[1]):
        part = y[:, rows].to(x.dtype)
        out[:, rows] = x[:, rows] + part if gate is None else torch.addcmul(x[:, rows], part, gate[:, group, None].to(x.dtype))
    return out


def add_then_norm(
    x: Tensor,
    y: Tensor,
    gate: Tensor | None,
    norm: tuple[Tensor, Tensor, float],
    group_size: int,
    eps: float,
    out: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Activation]:
    """`add_gated`, then `modulated_norm` of the sum.

    Args:
        norm: shift, scale and the summand `one`.
        dtype: that of the norm; None for the dtype of y.
    Returns:
        The sum in the dtype of x, and its norm, each [B, S, dim].
    """
    shift, scale, one = norm
    dtype = dtype or y.dtype
    if not kernels_work(x.device):
        total = add_gated(x, y, gate, group_size, out)
        return total, modulated_norm(total, shift, scale, group_size, eps, dtype, one)
    from . import triton_blocks

    total = torch.empty_like(x) if out is None else out
    normed, values, row_scale = _room(x, dtype)
    triton_blocks.add_norm(x, y, gate, total, (scale, shift, one), values, group_size, eps, row_scale)
    return total, normed


def _room(x: Tensor, dtype: torch.dtype) -> tuple[Activation, Tensor, Tensor | None]:
    """Memory for a norm of x: as a whole, its values, and the scales of its rows where `dtype` is float8."""
    if dtype == FLOAT8:
        rows = Float8Rows.empty(tuple(x.shape), x.device)
        return rows, rows.values, rows.scale
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    return out, out, None


def rms_norm_rope(x: Tensor, weight: Tensor, eps: float, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """RMS norm over all channels, then rotation of the channel pairs of every head. May overwrite x.

    Args:
        x: [B, S, heads * head_dim]. weight: [heads * head_dim]. rope: cos and sin, each [S, head_dim // 2], or None.
    """
    if kernels_work(x.device) and x.is_contiguous():
        from . import triton_blocks

        triton_blocks.rms_norm_rope(x, weight, eps, rope, out=x)
        return x
    x = F.rms_norm(x, x.shape[-1:], weight.to(x), eps)
    if rope is None:
        return x
    heads = x.unflatten(-1, (-1, 2 * rope[0].shape[1]))
    return apply_rope(heads, *rope, out=heads).flatten(2)


def rms_norm_rope_float8(
    x: Tensor,
    weight: Tensor,
    eps: float,
    rope: tuple[Tensor, Tensor],
    heads: int,
    smooth: bool = False,
    agree: Callable[[Tensor], Tensor] = lambda mean: mean,
) -> Float8Heads:
    """`rms_norm_rope`, then float8 with a scale per head that no token can exceed, by the weights of the norm.

    Args:
        smooth: as of `quantise_heads`. agree: makes one of the means [B, heads * head_dim] of all who hold some of the tokens.
    """
    scale = scale_of_norm(weight, heads, smooth)
    scale_of_batch = scale.repeat(x.shape[0], 1)
    if not (kernels_work(x.device) and x.is_contiguous()):
        x = rms_norm_rope(x.float(), weight, eps, rope)
        x = x - agree(x[:, ::MEAN_STRIDE].mean(dim=1))[:, None] if smooth else x
        return Float8Heads.rounded(x.unflatten(-1, (heads, -1)), scale_of_batch)
    from . import triton_blocks

    weight = (weight.unflatten(0, (heads, -1)) / scale[:, None]).flatten()  # rotation keeps what a whole head is multiplied by
    mean = None
    if smooth:
        sample = torch.empty_like(x[:, ::MEAN_STRIDE], memory_format=torch.contiguous_format)
        triton_blocks.rms_norm_rope(x, weight, eps, rope, out=sample, stride=MEAN_STRIDE)
        mean = agree(sample.mean(dim=1, dtype=torch.float32))
    values = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
    triton_blocks.rms_norm_rope(x, weight, eps, rope, out=values, mean=mean)
    return Float8Heads(values.unflatten(-1, (heads, -1)), scale_of_batch)


def scale_of_norm(weight: Tensor, heads: int, smooth: bool = False) -> Tensor:
    """The float8 scale of each head that no token can exceed behind an RMS norm: weight [heads * head_dim] -> [heads] float32."""
    largest = torch.linalg.vector_norm(weight.unflatten(0, (heads, -1)), ord=math.inf, dim=1, dtype=torch.float32)
    bound = (2 if smooth else 1) * math.sqrt(len(weight))  # of a normed and rotated channel by its weight, and of two that are subtracted
    return (largest * bound).clamp(min=TINY) / FLOAT8_MAX


def linear_gelu(layer: nn.Module, x: Tensor, cast: CastWeights) -> Tensor:
    """A linear layer, then GELU (tanh): [S, dim] -> [S, out]. In one product where cuBLAS applies the GELU before it rounds."""
    if not _is_plain_on_gpu(layer, x):
        return F.gelu(layer(x), approximate="tanh")
    with cast(layer, x) as (weight, bias):
        return torch._addmm_activation(cast_type(Tensor, bias), x, weight.t(), use_gelu=True)


def linear_into(layer: nn.Module, x: Tensor, out: Tensor, cast: CastWeights) -> None:
    """A linear layer that writes its result [S, out] into given memory, without a copy where cuBLAS can."""
    if not _is_plain_on_gpu(layer, x):
        out.copy_(layer(x))
        return
    with cast(layer, x) as (weight, bias):
        torch.addmm(cast_type(Tensor, bias), x, weight.t(), out=out)


def _is_plain_on_gpu(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer is nothing but its weight and bias, on a GPU where the kernels were tested."""
    return isinstance(layer, nn.Linear) and not is_changed(layer) and kernels_work(x.device)


def _groups(length: int, group_size: int, num_groups: int) -> Iterator[tuple[int, slice]]:
    """Chunks of the sequence with the number of their group."""
    for group in range(num_groups):
        start, end = group * group_size, length if group == num_groups - 1 else min((group + 1) * group_size, length)
        for rows in row_chunks(end - start):
            yield group, slice(start + rows.start, start + rows.stop)


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
