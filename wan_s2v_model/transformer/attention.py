"""Attention over token sequences; the kernel is passed in, so that ComfyUI's choice and overrides apply."""

import math
from collections.abc import Callable, Sequence
from typing import Any
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.casting import CastWeights, cast_weights
from ..kernels.float8 import Activation, Float8Heads
from ..kernels.fused import rms_norm_rope, rms_norm_rope_float8
from ..kernels.linears import EXACT, Linears
from .config import WanS2VConfig

AttentionFunction = Callable[..., Tensor]
Rope = tuple[Tensor, Tensor]  # cos and sin, each [S, head_dim // 2]
OVERRIDE = "optimized_attention_override"  # in transformer_options: another node's attention


FLOAT8_BEYOND = "float8_beyond"  # attribute of one that takes queries and keys in float8: with more than so many keys


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

    def forward(
        self,
        x: Activation,
        context: Activation | None = None,
        *,
        keys_values: tuple[Tensor, Tensor] | None = None,
        attention: AttentionFunction = sdpa,
        transformer_options: dict[str, Any] | None = None,
        cast: CastWeights = cast_weights,
        linears: Linears = EXACT,
    ) -> Tensor:
        """Attend from x to context.

        Args:
            x: [B, S, dim]. context: [B, L, dim].
            keys_values: what `project` made of the context, where it is known already.
        Returns:
            [B, S, dim].
        """
        q = self._normed(self.q, self.norm_q, x, None, cast, linears)
        k, v = keys_values or self.project(cast_type(Tensor, context), cast, linears)
        return linears(self.o, attention(q, k, v, self.num_heads, transformer_options=transformer_options or {}))

    def attend_to_itself(
        self,
        norm: Callable[[], Activation],
        rope: Rope,
        *,
        num_queries: int | None = None,
        attention: AttentionFunction = sdpa,
        transformer_options: dict[str, Any] | None = None,
        cast: CastWeights = cast_weights,
        linears: Linears = EXACT,
    ) -> Tensor:
        """Self attention with rotated queries and keys, the place of a model call that takes the most memory.

        Args:
            norm: makes the tokens [B, S, dim]; nobody else holds them, so that their memory is free again when queries, keys and values
                are known. rope: cos and sin, each [S, head_dim // 2].
            num_queries: only the first so many tokens ask; all are keys.
        Returns:
            [B, S, dim], or [B, num_queries, dim].
        """
        options = transformer_options or {}
        x = norm()
        normed: Callable[..., Tensor | Float8Heads] = self._normed_float8 if _takes_float8(attention, options, x.shape[1]) else self._normed
        q = normed(self.q, self.norm_q, x[:, :num_queries], _first(rope, num_queries), cast, linears)
        k = normed(self.k, self.norm_k, x, rope, cast, linears)
        v = linears(self.v, x)
        del x
        attended = attention(q, k, v, self.num_heads, transformer_options=options)
        del q, k, v
        return linears(self.o, attended)

    def project(self, context: Activation, cast: CastWeights = cast_weights, linears: Linears = EXACT) -> tuple[Tensor, Tensor]:
        """Keys and values of [B, L, dim] tokens, each [B, L, dim]."""
        return self._normed(self.k, self.norm_k, context, None, cast, linears), linears(self.v, context)

    def attend_to_few(self, x: Activation, k: Tensor, v: Tensor, cast: CastWeights, linears: Linears = EXACT) -> Tensor:
        """Like forward with known keys and values [B, L, dim], for a few of them, where Triton runs."""
        from ..kernels import triton_few_keys

        q = self._normed(self.q, self.norm_q, x, None, cast, linears)
        with cast(self.o, q) as (weight, bias):
            return triton_few_keys.attend_to_few(q, k, v, weight, cast_type(Tensor, bias), self.num_heads)

    def _normed(self, layer: nn.Module, norm: nn.Module, x: Activation, rope: Rope | None, cast: CastWeights, linears: Linears) -> Tensor:
        """Queries or keys of the tokens: a linear layer, its norm, and their rotation."""
        projected = linears(layer, x)
        with cast(norm, projected) as (weight, _):
            return rms_norm_rope(projected, weight, self.eps, rope)

    def _normed_float8(
        self, layer: nn.Module, norm: nn.Module, x: Activation, rope: Rope, cast: CastWeights, linears: Linears
    ) -> Float8Heads:
        """The same in float8; keys less what they share, which no softmax sees."""
        projected = linears(layer, x)
        with cast(norm, projected) as (weight, _):
            return rms_norm_rope_float8(projected, weight, self.eps, rope, self.num_heads, smooth=layer is self.k)


def _first(rope: Rope, count: int | None) -> Rope:
    """The rotations of the first tokens."""
    return rope[0][:count], rope[1][:count]


def _takes_float8(attention: AttentionFunction, transformer_options: dict[str, Any], num_keys: int) -> bool:
    """Whether self attention is told queries and keys in float8; another node's attention is not."""
    return num_keys > getattr(attention, FLOAT8_BEYOND, math.inf) and OVERRIDE not in transformer_options


class FirstAttention:
    """Keeps the latest output for as long as its inputs stay the same; one for each device, since several may work at once."""

    def __init__(self) -> None:
        self._kept: dict[torch.device, tuple[list[Tensor | None], Tensor]] = {}

    def __call__(self, inputs: Sequence[Tensor | None], compute: Callable[[int], Tensor]) -> Tensor:
        """Return the kept output, or compute it; once for a batch whose entries are alike.

        Args:
            inputs: all that decides the output beside the weights, each [B, ...]; the first is never None.
            compute: the output of the first so many entries of the batch.
        Returns:
            [B, S, dim]; entries may share memory.
        """
        x = inputs[0]
        assert x is not None
        first = [None if tensor is None else tensor[:1] for tensor in inputs]
        if len(x) > 1 and not _are_equal(inputs, [None if row is None else row.expand(len(x), *row.shape[1:]) for row in first]):
            return compute(len(x))
        known, output = self._kept.get(x.device, ([], x))
        if not _are_equal(first, known):
            self._kept.pop(x.device, None)  # before the next one takes memory
            output = compute(1)
            self._kept[x.device] = [None if row is None else row.clone() for row in first], output
        return output.expand(len(x), -1, -1)


def _are_equal(some: Sequence[Tensor | None], others: Sequence[Tensor | None]) -> bool:
    return len(some) == len(others) and all(
        a is b or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)) for a, b in zip(some, others, strict=True)
    )
