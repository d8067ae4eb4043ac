"""Building blocks of the transformer: weight casting, normalisation, modulation, time embedding, block and head."""

import math
from functools import partial
from typing import Any
from typing import cast as cast_type

import torch
from torch import Tensor, nn

from ..kernels.casting import CastWeights, cast_weights, run_as_input
from ..kernels.fused import layer_norm
from ..kernels.linears import EXACT, Linears
from ..kernels.row_chunks import CHUNK_ROWS, CHUNK_ROWS_KEY
from .attention import Attention, AttentionFunction
from .config import WanS2VConfig
from .residual import Residual


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

    def forward(  # noqa: PLR0913
        self,
        stream: Residual,
        e: Tensor,
        text: tuple[Tensor, Tensor],
        rope: tuple[Tensor, Tensor],
        *,
        attention: AttentionFunction,
        transformer_options: dict[str, Any],
        cast: CastWeights = cast_weights,
        only_video: bool = False,
        linears: Linears = EXACT,
        attended: Tensor | None = None,
    ) -> Residual:
        """Run the block.

        Args:
            stream: [B, S, dim], which the block adds to. e: [B, 6, 2, dim] float32 time projection for video and other tokens.
            text: keys and values of the prompt, each [B, L, dim] in the compute dtype.
            only_video: the other tokens are not needed behind this block. attended: what `attend` returns, where it is known already.
        Returns:
            The same stream, [B, S, dim], or [B, split, dim] for `only_video`.
        """
        dtype, eps = linears.input_dtype(text[0].dtype), self.eps
        kernel: dict[str, Any] = {"attention": attention, "transformer_options": transformer_options, "cast": cast, "linears": linears}
        _, _, gate_a, shift_f, scale_f, gate_f = self._modulation(e)
        if attended is None:
            rows = stream.split if only_video else None
            attended = self.attend(stream, e, rope, text[0].dtype, num_queries=rows, **kernel)
        stream.keep_first(attended.shape[1])
        stream.add(attended, gate_a)
        del attended
        with cast(self.norm3, e) as (weight, bias):
            normed = stream.norm(_row(bias, e), _row(weight, e), eps, dtype, one=0.0)
        stream.add(self.cross_attn(normed, keys_values=text, **kernel))
        normed = stream.norm(shift_f, scale_f, eps, dtype)
        chunk_rows = transformer_options.get(CHUNK_ROWS_KEY, CHUNK_ROWS)
        stream.add(linears.feed_forward(self.ffn[0], self.ffn[2], normed, cast, chunk_rows), gate_f)
        return stream

    def attend(
        self, stream: Residual, e: Tensor, rope: tuple[Tensor, Tensor], dtype: torch.dtype, *, linears: Linears, **options: Any
    ) -> Tensor:
        """Norm and self attention: as for `forward`, `options` as for `Attention` -> [B, S or num_queries, dim] in `dtype`."""
        shift, scale, *_ = self._modulation(e)
        norm = partial(stream.norm, shift, scale, self.eps, linears.input_dtype(dtype))
        return self.self_attn.attend_to_itself(norm, rope, linears=linears, **options)

    def _modulation(self, e: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention and feed-forward, each [B, 2, dim]."""
        return (e + self.modulation.to(e).unsqueeze(2)).unbind(1)  # [B, 6, 2, dim]

    def project_text(self, context: Tensor, cast: CastWeights = cast_weights) -> tuple[Tensor, Tensor]:
        """Keys and values of the projected prompt [B, L, dim], each [B, L, dim]."""
        return self.cross_attn.project(context, cast=cast)


def _row(values: Tensor | None, e: Tensor) -> Tensor:
    """[dim] weights of a norm as one row of modulation [B, 1, dim] for all tokens."""
    return cast_type(Tensor, values).expand(e.shape[0], 1, -1)


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
