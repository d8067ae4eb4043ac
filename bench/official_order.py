"""The blocks and the head in the order of operations of the official code, written plainly; in float64 it is the truth.

The official code runs under bfloat16 autocast: products and attention in bfloat16, norms, modulation and the residual stream in float32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ADALN_EPS = 1e-5


@dataclass(frozen=True)
class Stack:
    """What the blocks are given.

    Attributes:
        tokens: [1, S, dim], the first `split` of them of the video. e_head: [1, dim]. e: [1, 6, 2, dim] for video and other tokens.
        angles: of the rotary positions, [S, head_dim / 2]. context: [1, 512, dim]. whole, local: sound, [1, F, 1, dim], [1, F, n, dim].
    """

    tokens: Tensor
    split: int
    e_head: Tensor
    e: Tensor
    angles: Tensor
    context: Tensor
    whole: Tensor
    local: Tensor


def run(model, stack: Stack, wide: torch.dtype) -> Tensor:
    """[1, split, out] in `wide`: float32 under autocast, or float64 with a model in float64."""
    with torch.autocast(stack.tokens.device.type, torch.bfloat16, enabled=wide == torch.float32):
        return _run(model, stack, wide)


def _run(model, stack: Stack, wide: torch.dtype) -> Tensor:
    x, video = stack.tokens.to(wide), slice(0, stack.split)
    is_other = torch.arange(x.shape[1], device=x.device) >= stack.split
    for index, block in enumerate(model.blocks):
        e = (block.modulation.to(wide).unsqueeze(2) + stack.e.to(wide))[:, :, is_other.long()]  # [1, 6, S, dim]
        y = _norm(x, block.eps, wide) * (1 + e[:, 1]) + e[:, 0]
        x = x + _attend(block.self_attn, y, y, stack.angles, wide) * e[:, 2]
        y = F.layer_norm(x, x.shape[-1:], block.norm3.weight.to(wide), block.norm3.bias.to(wide), block.eps)
        x = x + _attend(block.cross_attn, y, stack.context.to(wide), None, wide)
        y = _norm(x, block.eps, wide) * (1 + e[:, 4]) + e[:, 3]
        x = x + block.ffn[2](F.gelu(block.ffn[0](y), approximate="tanh")) * e[:, 5]
        if index in model.audio_injector.index_of_block:
            x = torch.cat([x[:, video] + _hear(model.audio_injector, index, x[:, video], stack, wide), x[:, stack.split :]], dim=1)
    shift, scale = (model.head.modulation.to(wide) + stack.e_head.to(wide).unsqueeze(1)).chunk(2, dim=1)
    with torch.autocast(x.device.type, enabled=False):
        y = _norm(x[:, video], model.head.eps, wide) * (1 + scale) + shift
        return F.linear(y, model.head.head.weight.to(wide), model.head.head.bias.to(wide))


def _hear(audio, index: int, x: Tensor, stack: Stack, wide: torch.dtype) -> Tensor:
    number = audio.index_of_block[index]
    frames = x.unflatten(1, (stack.whole.shape[1], -1)).flatten(0, 1)  # [F, n, dim]
    shift, scale = audio.injector_adain_layers[number].linear(F.silu(stack.whole.to(wide))).chunk(2, dim=-1)
    y = _norm(frames, ADALN_EPS, wide) * (1 + scale[0]) + shift[0]
    return _attend(audio.injector[number], y, stack.local.to(wide)[0], None, wide).reshape(x.shape)


def _norm(x: Tensor, eps: float, wide: torch.dtype) -> Tensor:
    return F.layer_norm(x.to(wide), x.shape[-1:], eps=eps)


def _attend(attention, x: Tensor, context: Tensor, angles: Tensor | None, wide: torch.dtype) -> Tensor:
    q, k = _rms(attention.q(x), attention.norm_q, wide), _rms(attention.k(context), attention.norm_k, wide)
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (q, k, attention.v(context)))
    if angles is not None:
        q, k = _rotate(q, angles, wide), _rotate(k, angles, wide)
    dtype = torch.bfloat16 if wide == torch.float32 else wide
    heads = [F.scaled_dot_product_attention(*(part[:, head].to(dtype) for part in (q, k, v))) for head in range(q.shape[1])]
    return attention.o(torch.stack(heads, dim=2).flatten(2))  # head by head: float64 has no kernel that saves memory


def _rms(x: Tensor, norm, wide: torch.dtype) -> Tensor:
    whole = x.to(wide)
    return (whole * torch.rsqrt(whole.square().mean(dim=-1, keepdim=True) + norm.eps)).to(x.dtype) * norm.weight


def _rotate(x: Tensor, angles: Tensor, wide: torch.dtype) -> Tensor:
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(wide)
