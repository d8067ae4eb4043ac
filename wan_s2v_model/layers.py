"""Building blocks of the transformer: weight casting, normalisation, modulation, time embedding, block and head."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, AttentionFunction
from .config import WanS2VConfig
from .rope import row_chunks

CastWeights = Callable[[nn.Module, Tensor], AbstractContextManager[tuple[Tensor, Tensor | None]]]


@contextmanager
def cast_weights(layer: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weight and bias of a plain torch layer in the dtype of x. ComfyUI's layers bring their own version of this."""
    weight, bias = layer.get_parameter("weight"), layer._parameters["bias"]
    yield weight.to(x), None if bias is None else bias.to(x)


def run_as_input(layer: nn.Module, x: Tensor, cast: CastWeights = cast_weights) -> Tensor:
    """Run a layer in the dtype of its input, whatever the dtype in which its weights are stored."""
    with cast(layer, x) as (weight, bias):
        if isinstance(layer, nn.Conv1d | nn.Conv3d):
            return layer._conv_forward(x, weight, bias)
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        return F.linear(x, weight, bias)  # ComfyUI's quantised linear layers are not nn.Linear


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm over the last axis without weights, in float32."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, split: int, dtype: torch.dtype, eps: float) -> Tensor:
    """Layer norm, then scale and shift with one row for the video tokens and one for the tokens after `split`.

    Args:
        x: [B, S, dim]. shift, scale: [B, 2, dim].
    Returns:
        [B, S, dim] in `dtype`.
    """
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    for row, rows in _segments(x.shape[1], split):
        out[:, rows] = torch.addcmul(shift[:, row, None], layer_norm(x[:, rows], eps), 1 + scale[:, row, None])
    return out


def add_gated(x: Tensor, y: Tensor, gate: Tensor, split: int) -> Tensor:
    """Return x + gate * y with one gate row for the video tokens and one for the tokens after `split`.

    Args:
        x, y: [B, S, dim]. gate: [B, 2, dim].
    """
    out = torch.empty_like(x)
    for row, rows in _segments(x.shape[1], split):
        out[:, rows] = torch.addcmul(x[:, rows], y[:, rows].to(x.dtype), gate[:, row, None].to(x.dtype))
    return out


def _segments(length: int, split: int) -> Iterator[tuple[int, slice]]:
    """Chunks of the sequence with their modulation row: 0 before `split`, 1 behind it."""
    for row, (start, end) in enumerate(((0, split), (split, length))):
        for rows in row_chunks(end - start):
            yield row, slice(start + rows.start, start + rows.stop)


def timestep_embedding(timesteps: Tensor, freq_dim: int) -> Tensor:
    """Sinusoid of the timestep, cosines first, computed in float64.

    Args:
        timesteps: [B] on the 0..1000 scale.
    Returns:
        [B, freq_dim] float32.
    """
    half = freq_dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64, device=timesteps.device) / half)
    angle = timesteps.double()[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=1).float()


class Block(nn.Module):
    """Self attention, text cross attention and feed-forward, with timestep modulation."""

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        self.eps = config.eps
        self.self_attn = Attention(config, operations=operations, **factory)
        self.norm3 = operations.LayerNorm(config.dim, eps=config.eps, elementwise_affine=True, **factory)
        self.cross_attn = Attention(config, operations=operations, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(config.dim, config.ffn_dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.ffn_dim, config.dim, **factory),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, config.dim, **factory))

    def forward(
        self,
        x: Tensor,
        e: Tensor,
        text: tuple[Tensor, Tensor],
        rope: tuple[Tensor, Tensor],
        split: int,
        *,
        attention: AttentionFunction,
        transformer_options: dict[str, Any],
        cast: CastWeights = cast_weights,
    ) -> Tensor:
        """Run the block.

        Args:
            x: [B, S, dim] residual stream. e: [B, 6, 2, dim] float32 time projection for video and other tokens.
            text: keys and values of the prompt, each [B, L, dim] in the compute dtype. split: number of video tokens.
        Returns:
            [B, S, dim] in the dtype of x.
        """
        dtype = text[0].dtype
        kernel = {"attention": attention, "transformer_options": transformer_options}
        e = e + self.modulation.to(e).unsqueeze(2)  # [B, 6, 2, dim]
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = e.unbind(1)
        y = self.self_attn(modulate(x, shift_a, scale_a, split, dtype, self.eps), rope=rope, **kernel)
        x = add_gated(x, y, gate_a, split)
        y = self.cross_attn(self._norm_for_text(x, dtype, cast), keys_values=text, **kernel)
        x += y  # x is new since the self attention
        y = modulate(x, shift_f, scale_f, split, dtype, self.eps)
        for rows in row_chunks(y.shape[1]):
            y[:, rows] = self.ffn(y[:, rows])
        return add_gated(x, y, gate_f, split)

    def project_text(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the projected prompt [B, L, dim], each [B, L, dim]."""
        return self.cross_attn.project(context)

    def _norm_for_text(self, x: Tensor, dtype: torch.dtype, cast: CastWeights) -> Tensor:
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        for rows in row_chunks(x.shape[1]):
            out[:, rows] = run_as_input(self.norm3, x[:, rows].float(), cast)
        return out


class Head(nn.Module):
    """Final norm, modulation by the time embedding, projection to latent patches; all in float32."""

    def __init__(self, config: WanS2VConfig, patch_volume: int, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        self.eps = config.eps
        self.head = operations.Linear(config.dim, config.out_channels * patch_volume, dtype=dtype, device=device)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim, dtype=dtype, device=device))

    def forward(self, x: Tensor, e: Tensor, cast: CastWeights = cast_weights) -> Tensor:
        """[B, S, dim] tokens and [B, dim] time embedding -> [B, S, out_channels * patch_volume] float32."""
        shift, scale = (self.modulation.to(e) + e.unsqueeze(1)).unsqueeze(2).unbind(1)  # each [B, 1, dim]
        return run_as_input(self.head, torch.addcmul(shift, layer_norm(x, self.eps), 1 + scale), cast)
