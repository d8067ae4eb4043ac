"""Attention to a handful of audio tokens: the output projection moves in front of the sum over keys.

Five keys per latent frame and 40 heads make 200 weights per video token. Their product with the projected values of the frame replaces
both the sum over the values and the projection of every video token: a hundredth of the work, the same result to rounding.
"""

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

ROWS = 64  # video tokens per program
SMALLEST_DOT = 16  # columns of a product that Triton can make
BIAS_WIDTH = tl.constexpr(8)  # columns behind the weights: ones, by which the bias is multiplied, and zeros for an even width


@triton.jit
def _weights_of_keys(
    q_ptr, k_ptr, p_ptr, num_rows, num_keys, dim, scale, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, KEYS: tl.constexpr, ROWS: tl.constexpr
):
    frame = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel, key = tl.arange(0, HEAD_DIM), tl.arange(0, KEYS)
    is_row, is_key = row < num_rows, key < num_keys
    p_row = p_ptr + (frame * num_rows + row[:, None]) * (HEADS * num_keys + BIAS_WIDTH)
    for head in range(HEADS):
        q_at = (frame * num_rows + row[:, None]) * dim + head * HEAD_DIM + channel[None, :]
        k_at = (frame * num_keys + key[None, :]) * dim + head * HEAD_DIM + channel[:, None]
        q = tl.load(q_ptr + q_at, mask=is_row[:, None], other=0.0)
        k = tl.load(k_ptr + k_at, mask=is_key[None, :], other=0.0)
        scores = tl.where(is_key[None, :], tl.dot(q, k, input_precision="ieee") * scale, -float("inf"))
        weights = tl.exp(scores - tl.max(scores, axis=1)[:, None])
        weights = weights / tl.sum(weights, axis=1)[:, None]
        tl.store(p_row + head * num_keys + key[None, :], weights.to(p_ptr.dtype.element_ty), mask=is_row[:, None] & is_key[None, :])
    column = tl.arange(0, BIAS_WIDTH)[None, :]
    ones = tl.where(column == 0, 1.0, 0.0).to(p_ptr.dtype.element_ty)
    tl.store(p_row + HEADS * num_keys + column, ones, mask=is_row[:, None])


def weights_of_keys(q: Tensor, k: Tensor, num_heads: int) -> Tensor:
    """Softmax weights and what `projected_values` needs for the bias: [B, n, dim] queries, [B, t, dim] keys -> [B, n, heads * t + 8]."""
    batch, num_rows, dim = q.shape
    num_keys, head_dim = k.shape[1], dim // num_heads
    p = torch.empty(batch, num_rows, num_heads * num_keys + BIAS_WIDTH.value, dtype=q.dtype, device=q.device)
    keys = max(SMALLEST_DOT, triton.next_power_of_2(num_keys))
    sizes = num_rows, num_keys, dim, 1 / math.sqrt(head_dim)
    _weights_of_keys[(triton.cdiv(num_rows, ROWS), batch)](
        q, k.contiguous(), p, *sizes, HEADS=num_heads, HEAD_DIM=head_dim, KEYS=keys, ROWS=ROWS
    )
    return p


def projected_values(v: Tensor, weight: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    """What each key of each head adds to the output, and the bias: [B, t, dim] values, [out, dim], [out] -> [B, heads * t + 8, out]."""
    batch, num_keys, _ = v.shape
    by_head = v.flatten(0, 1).unflatten(1, (num_heads, -1)).transpose(0, 1)  # [heads, B * t, d]
    matrices = weight.unflatten(1, (num_heads, -1)).permute(1, 2, 0)  # [heads, d, out]
    projected = torch.bmm(by_head, matrices).unflatten(1, (batch, num_keys)).transpose(0, 1).flatten(1, 2)
    out = F.pad(projected, (0, 0, 0, BIAS_WIDTH.value))
    out[:, num_heads * num_keys] = bias
    return out


def few_key_attention(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, bias: Tensor, num_heads: int) -> Tensor:
    """Attention and its output projection: [B, n, dim], [B, t, dim] twice, [out, dim], [out] -> [B, n, out]."""
    return torch.bmm(weights_of_keys(q, k, num_heads), projected_values(v, weight, bias, num_heads))


def disagreement(device: torch.device, dtype: torch.dtype) -> float:
    """The largest difference to attention and projection in float32 on a small example with values near 1."""
    generator = torch.Generator(device).manual_seed(0)
    heads, head_dim = 2, 128
    dim = heads * head_dim

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    q, k, v, weight, bias = noise(2, 70, dim), noise(2, 5, dim), noise(2, 5, dim), noise(dim, dim) / math.sqrt(dim), noise(dim)
    q_heads, k_heads, v_heads = (t.float().unflatten(-1, (heads, head_dim)) for t in (q, k, v))
    scores = torch.einsum("bnhd,bthd->bhnt", q_heads, k_heads) / math.sqrt(head_dim)
    attended = torch.einsum("bhnt,bthd->bnhd", scores.softmax(-1), v_heads).flatten(2)
    expected = attended @ weight.float().T + bias.float()
    return float((few_key_attention(q, k, v, weight, bias, heads).float() - expected).abs().max())
