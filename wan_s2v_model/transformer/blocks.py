"""One transformer block: x += gate * attention(norm(x)), and its feed-forward; the residual stream, attention and head that it is made of.

Source: Wan-Video/Wan2.2 (Apache-2.0), written anew. The attention kernel is passed in, so that ComfyUI's choice and overrides apply.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from typing import cast as cast_type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.casting import CastWeights, cast_weights, is_changed, run_as_input
from ..kernels.float8 import Activation, Float8Heads, quantise_heads
from ..kernels.fused import add_gated, add_then_norm, layer_norm, modulated_norm, rms_norm_rope, rms_norm_rope_float8
from ..kernels.linears import EXACT, Linears
from ..kernels.row_chunks import CHUNK_ROWS, CHUNK_ROWS_KEY
from .config import WanS2VConfig
from .shards import Heads, KeysElsewhere, SelfAttention

AttentionFunction = Callable[..., Tensor]
Rope = tuple[Tensor, Tensor]  # cos and sin, each [S, head_dim // 2]
FLOAT8_BEYOND = "float8_beyond"  # attribute of one that takes queries and keys in float8: with more than so many keys
OVERRIDE = "optimized_attention_override"  # in transformer_options: another node's attention


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    """PyTorch's scaled dot product attention on [B, S, heads * head_dim] tensors."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # [B, S, D] -> [B, H, S, d]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Compute:
    """How a model call computes.

    Attributes:
        attention: the kernel. linears: computes the products of all blocks and audio injectors.
        cast: gives weights in the dtype and on the device of an input.
        transformer_options: of ComfyUI; other nodes' patches and overrides are in it.
        part: where self attention has its keys: with other GPUs that share the tokens, or in a memory of earlier calls.
    """

    attention: AttentionFunction = sdpa
    linears: Linears = EXACT
    cast: CastWeights = cast_weights
    transformer_options: dict[str, Any] = field(default_factory=dict)
    part: KeysElsewhere | None = None

    @property
    def chunk_rows(self) -> int:
        """The most tokens whose wide feed-forward result is in memory at once."""
        return self.transformer_options.get(CHUNK_ROWS_KEY, CHUNK_ROWS)

    def input_dtype(self, layer: nn.Module, dtype: torch.dtype) -> torch.dtype:
        """The type in which a layer gets its input, where all else is of type `dtype`; one that another node has changed gets that."""
        return dtype if is_changed(layer) else self.linears.input_dtype(dtype)

    @property
    def is_overridden(self) -> bool:
        """Whether another node's attention runs."""
        return OVERRIDE in self.transformer_options

    def takes_float8(self, num_tokens: int, heads: int) -> bool:
        """Whether self attention is given queries and keys in float8; another node's attention is not."""
        num_keys = num_tokens if self.part is None else self.part.num_keys
        can = self.part is None or self.part.takes_float8(heads)
        return can and num_keys > getattr(self.attention, FLOAT8_BEYOND, math.inf) and not self.is_overridden

    def self_attention(self, heads: int) -> SelfAttention:
        """Takes keys and values, then queries."""
        return SelfAttention() if self.part is None else self.part.self_attention(heads)

    def attend(self, q: Heads, k: Heads, v: Heads, heads: int) -> Tensor:
        """Attention on [B, S, heads * head_dim], or with queries and keys in float8, and values that have travelled."""
        return self.attention(q, k, v, heads, transformer_options=self.transformer_options)


class Residual:
    """x, to which layers add in turn.

    An object that changes, so that nobody keeps a tensor which is already part of the sum.

    Args:
        x: [B, S, dim]. split: tokens of the video, which come first; the others have the second row of gates and modulations.
        is_own: nobody else holds x, so it may be overwritten.
    """

    def __init__(self, x: Tensor, split: int, is_own: bool = False):
        self.x = x
        self.split = split
        self._is_own = is_own
        self._y: Tensor | None = None
        self._gate: Tensor | None = None

    def add(self, y: Tensor, gate: Tensor | None = None) -> None:
        """Add gate * y, later: y [B, S, dim], gate [B, 2, dim], or None for 1."""
        self.summed()
        self._y, self._gate = y, gate

    def norm(self, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype, one: float = 1.0) -> Activation:
        """Layer norm * (one + scale) + shift of the sum: shift, scale [B, 1 or 2, dim] -> [B, S, dim] in `dtype`."""
        if self._y is None:
            return modulated_norm(self.x, shift, scale, self.split, eps, dtype, one)
        modulation = shift, scale, one
        self.x, normed = add_then_norm(self.x, self._y, self._gate, modulation, self.split, eps, self._output(), dtype)
        self._clear_pending()
        return normed

    def norm_video(self, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype) -> Activation:
        """`norm` of the video tokens alone, frame by frame: shift, scale [B, F, dim] -> [B, split, dim]."""
        split, frame_tokens = self.split, self.split // shift.shape[1]
        if self._y is None:
            return modulated_norm(self.x[:, :split], shift, scale, frame_tokens, eps, dtype)
        total = self.x if self._is_own else torch.empty_like(self.x)
        gates = (None, None) if self._gate is None else (self._gate[:, :1], self._gate[:, 1:])
        video, others = slice(0, split), slice(split, None)
        modulation = shift, scale, 1.0
        _, normed = add_then_norm(self.x[:, video], self._y[:, video], gates[0], modulation, frame_tokens, eps, total[:, video], dtype)
        if self.x.shape[1] > split:
            add_gated(self.x[:, others], self._y[:, others], gates[1], split, total[:, others])
        self.x = total
        self._clear_pending()
        return normed

    def summed(self) -> Tensor:
        """[B, S, dim] in the dtype of x."""
        if self._y is not None:
            self.x = add_gated(self.x, self._y, self._gate, self.split, self._output())
            self._clear_pending()
        return self.x

    def owned(self) -> Tensor:
        """`summed`, in memory that may be overwritten."""
        x = self.summed()
        self.x, self._is_own = x if self._is_own else x.clone(), True
        return self.x

    def keep_first(self, count: int) -> None:
        """Leave out all tokens but the first."""
        self.x = self.x[:, :count]
        self._y = None if self._y is None else self._y[:, :count]

    def _output(self) -> Tensor | None:
        return self.x if self._is_own else None

    def _clear_pending(self) -> None:
        self._y, self._gate, self._is_own = None, None, True


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

    def forward(self, x: Activation, keys_values: tuple[Tensor, Tensor], compute: Compute) -> Tensor:
        """Attend from x [B, S, dim] to the keys and values that `project` made of something else -> [B, S, dim]."""
        q = self._normed(self.q, self.norm_q, x, None, compute.cast, compute.linears)
        return compute.linears(self.o, compute.attend(q, *keys_values, self.num_heads))

    def self_attention(self, norm: Callable[[], Activation], rope: Rope, compute: Compute, num_queries: int | None = None) -> Tensor:
        """Self attention with rotated queries and keys, the place of a model call that takes the most memory.

        Args:
            norm: makes the tokens [B, S, dim]; nobody else holds them, so that their memory is free again when queries, keys and values
                are known. rope: cos and sin, each [S, head_dim // 2].
            num_queries: only the first so many tokens ask; all are keys.
        Returns:
            [B, S, dim], or [B, num_queries, dim].
        """
        cast, linears, x = compute.cast, compute.linears, norm()
        asking = rope[0][:num_queries], rope[1][:num_queries]
        attention = compute.self_attention(self.num_heads)
        is_float8 = compute.takes_float8(x.shape[1], self.num_heads)
        normed: Callable[..., Heads] = partial(self._normed_float8, attention=attention) if is_float8 else self._normed
        to_queries = partial(normed, self.q, self.norm_q, rope=asking, cast=cast, linears=linears)
        # queries first take the least memory; queries last give keys and values time to travel
        q = None if attention.exchanges else to_queries(x[:, :num_queries])
        attention.take_keys(normed(self.k, self.norm_k, x, rope, cast, linears))
        v = linears(self.v, x)
        attention.take_values(quantise_heads(v, self.num_heads, agree=attention.largest) if is_float8 and attention.exchanges else v)
        del v
        q = to_queries(x[:, :num_queries]) if q is None else q
        del x
        attended = attention.ask(q, compute.attend, self.num_heads, only_video=num_queries is not None)
        del q, attention, normed, to_queries
        return linears(self.o, attended)

    def few_key_attention(self, x: Activation, k: Tensor, v: Tensor, compute: Compute) -> Tensor:
        """Like forward with keys and values [B, L, dim], for a few of them, where Triton runs."""
        from ..kernels import triton_few_keys

        q = self._normed(self.q, self.norm_q, x, None, compute.cast, compute.linears)
        with compute.cast(self.o, q) as (weight, bias):
            return triton_few_keys.few_key_attention(q, k, v, weight, cast_type(Tensor, bias), self.num_heads)

    def project(self, context: Activation, cast: CastWeights = cast_weights) -> tuple[Tensor, Tensor]:
        """Keys and values of [B, L, dim] tokens, each [B, L, dim]."""
        return self._normed(self.k, self.norm_k, context, None, cast, EXACT), EXACT(self.v, context)

    def _normed(self, layer: nn.Module, norm: nn.Module, x: Activation, rope: Rope | None, cast: CastWeights, linears: Linears) -> Tensor:
        """Queries or keys of the tokens: a linear layer, its norm, and their rotation."""
        projected = linears(layer, x)
        with cast(norm, projected) as (weight, _):
            return rms_norm_rope(projected, weight, self.eps, rope)

    def _normed_float8(
        self,
        layer: nn.Module,
        norm: nn.Module,
        x: Activation,
        rope: Rope,
        cast: CastWeights,
        linears: Linears,
        attention: SelfAttention,
    ) -> Float8Heads:
        """The same in float8; keys less what those of all members share, which no softmax sees, unless the attention keeps them."""
        projected = linears(layer, x)
        with cast(norm, projected) as (weight, _):
            smooth = layer is self.k and attention.smooths
            return rms_norm_rope_float8(projected, weight, self.eps, rope, self.num_heads, smooth, attention.mean)


class Prompt(NamedTuple):
    """The projected prompt for one block: tokens [B, L, dim] and what its cross attention makes of them, keys and values [B, L, dim]."""

    keys: Tensor
    values: Tensor
    tokens: Tensor


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
        stream: Residual,
        e: Tensor,
        text: Prompt,
        rope: Rope,
        compute: Compute,
        only_video: bool = False,
        attended: Tensor | None = None,
    ) -> Residual:
        """Run the block.

        Args:
            stream: [B, S, dim], which the block adds to. e: [B, 6, 2, dim] float32 time projection for video and other tokens.
            text: the prompt, in the compute dtype.
            only_video: the other tokens are not needed behind this block. attended: what `attend` returns, where it is known already.
        Returns:
            The same stream, [B, S, dim], or [B, split, dim] for `only_video`.
        """
        eps, dtype = self.eps, text.keys.dtype
        _, _, gate_a, shift_f, scale_f, gate_f = self._modulation(e)
        if attended is None:
            attended = self.attend(stream, e, rope, dtype, compute, stream.split if only_video else None)
        stream.keep_first(attended.shape[1])
        stream.add(attended, gate_a)
        del attended
        with compute.cast(self.norm3, e) as (weight, bias):
            normed = stream.norm(_row(bias, e), _row(weight, e), eps, compute.input_dtype(self.cross_attn, dtype), one=0.0)
        stream.add(self._attend_to_text(normed, text, compute))
        del normed
        stream.add(self._feed_forward(stream.norm(shift_f, scale_f, eps, compute.input_dtype(self.ffn, dtype)), compute), gate_f)
        return stream

    def _attend_to_text(self, x: Activation, text: Prompt, compute: Compute) -> Tensor:
        if is_changed(self.cross_attn):  # another node's forward has the arguments of ComfyUI's own
            return self.cross_attn.forward(x, text.tokens, transformer_options=compute.transformer_options)  # type: ignore
        return self.cross_attn(x, (text.keys, text.values), compute)

    def _feed_forward(self, x: Activation, compute: Compute) -> Tensor:
        if is_changed(self.ffn):
            return self.ffn.forward(cast_type(Tensor, x))
        return compute.linears.feed_forward(self.ffn[0], self.ffn[2], x, compute.cast, compute.chunk_rows)

    def attend(
        self, stream: Residual, e: Tensor, rope: Rope, dtype: torch.dtype, compute: Compute, num_queries: int | None = None
    ) -> Tensor:
        """Norm and self attention: as for `forward` -> [B, S or num_queries, dim] in `dtype`."""
        shift, scale, *_ = self._modulation(e)
        norm = partial(stream.norm, shift, scale, self.eps, compute.linears.input_dtype(dtype))
        return self.self_attn.self_attention(norm, rope, compute, num_queries)

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
