"""Attention over token sequences; the kernel is passed in, so that ComfyUI's choice and overrides apply."""

from collections.abc import Callable
from typing import Any
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .casting import CastWeights, cast_weights
from .config import WanS2VConfig
from .fused import rms_norm_rope
from .linears import EXACT, Linears
from .quantised import Activation

AttentionFunction = Callable[..., Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    """PyTorch's scaled dot product attention on [B, S, heads * head_dim] tensors."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # [B, S, D] -> [B, H, S, d]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self or cross attention with RMS-normalised queries and keys.

    The normalisation runs over all channels, not per head, as in the reference.
    """

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        self.num_heads = config.num_heads
        self.eps = config.eps
        factory = {"dtype": dtype, "device": device}
        dim = config.dim
        self.q = operations.Linear(dim, dim, **factory)
        self.k = operations.Linear(dim, dim, **factory)
        self.v = operations.Linear(dim, dim, **factory)
        self.o = operations.Linear(dim, dim, **factory)
        self.norm_q = operations.RMSNorm(dim, eps=config.eps, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=config.eps, **factory)

    def forward(  # noqa: PLR0913
        self,
        x: Activation,
        context: Activation | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
        *,
        keys_values: tuple[Tensor, Tensor] | None = None,
        num_queries: int | None = None,
        attention: AttentionFunction = sdpa,
        transformer_options: dict[str, Any] | None = None,
        cast: CastWeights = cast_weights,
        linears: Linears = EXACT,
    ) -> Tensor:
        """Attend from x to context (x itself when None).

        Args:
            x: [B, S, dim]. context: [B, L, dim]. rope: cos and sin, each [S, head_dim // 2].
            keys_values: what `project` made of the context, where it is known already.
            num_queries: only the first so many tokens of x ask; all are keys.
        Returns:
            [B, S, dim], or [B, num_queries, dim].
        """
        rope_of_queries = None if rope is None else (rope[0][:num_queries], rope[1][:num_queries])
        q = self._norm(self.norm_q, linears(self.q, x[:, :num_queries]), rope_of_queries, cast)
        k, v = self.project(x if context is None else context, rope, cast, linears) if keys_values is None else keys_values
        return linears(self.o, attention(q, k, v, self.num_heads, transformer_options=transformer_options or {}))

    def project(
        self,
        context: Activation,
        rope: tuple[Tensor, Tensor] | None = None,
        cast: CastWeights = cast_weights,
        linears: Linears = EXACT,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of [B, L, dim] tokens, each [B, L, dim]."""
        return self._norm(self.norm_k, linears(self.k, context), rope, cast), linears(self.v, context)

    def attend_to_few(self, x: Activation, k: Tensor, v: Tensor, cast: CastWeights, linears: Linears = EXACT) -> Tensor:
        """Like forward with known keys and values [B, L, dim], for a few of them, where Triton runs."""
        from . import audio_kernels

        q = self._norm(self.norm_q, linears(self.q, x), None, cast)
        with cast(self.o, q) as (weight, bias):
            return audio_kernels.attend_to_few(q, k, v, weight, cast_type(Tensor, bias), self.num_heads)

    def _norm(self, norm: nn.Module, x: Tensor, rope: tuple[Tensor, Tensor] | None, cast: CastWeights) -> Tensor:
        with cast(norm, x) as (weight, _):
            return rms_norm_rope(x, weight, self.eps, rope)
