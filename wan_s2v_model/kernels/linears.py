"""How the large products of the blocks are computed: as their layers do it, or in float8."""

import functools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from .casting import CastWeights, is_changed
from .float8 import FLOAT8, Activation, Float8Rows
from .fused import add_then_norm, linear_gelu, linear_into, modulated_norm, rms_norm_rope_float8
from .products import multiply, way_of
from .row_chunks import ALIGNED_ROWS, CHUNK_ROWS, row_chunks
from .self_test import passes
from .triton_works import kernels_work

logger = logging.getLogger("wan_s2v")
EPS, HEAD_DIM = 1e-6, 128  # of the self-test
TOLERANCE = 1e-2  # of the self-test, relative: bfloat16 results and float8 values that round the other way
Float8Weights = Callable[[nn.Module, torch.dtype, torch.device], AbstractContextManager[tuple[Float8Rows, Tensor | None]]]


class Linears:
    """The layers compute their products themselves.

    Attributes:
        rounding: to what inputs are rounded before a product, for people; "" where they are not.
    """

    rounding = ""

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type in which a norm hands its result to a product, where all else is of type `dtype`."""
        return dtype

    def __call__(self, layer: nn.Module, x: Activation) -> Tensor:
        """Run a linear layer: [B, S, in] -> [B, S, out]."""
        return layer(x)

    def feed_forward(self, first: nn.Module, second: nn.Module, x: Activation, cast: CastWeights, chunk_rows: int = CHUNK_ROWS) -> Tensor:
        """Two linear layers with GELU (tanh) between them: [B, S, dim] -> [B, S, dim]. May overwrite x.

        Args:
            chunk_rows: the most tokens whose wide result is in memory at once.
        """
        assert isinstance(x, Tensor)
        rows = x.flatten(0, 1)
        for chunk in row_chunks(len(rows), chunk_rows):
            linear_into(second, linear_gelu(first, rows[chunk], cast), rows[chunk], cast)
        return rows.unflatten(0, x.shape[:2])


EXACT = Linears()


def quantise_rows(x: Tensor, gelu: bool = False, out: Float8Rows | None = None) -> Float8Rows:
    """Each row of [..., dim] over its largest magnitude, after GELU (tanh) where asked, into `out` or new memory."""
    if kernels_work(x.device):
        from . import triton_blocks

        out = Float8Rows.empty(tuple(x.shape), x.device) if out is None else out
        triton_blocks.quantise_rows(x.contiguous(), gelu, out.values, out.scale)
        return out
    rounded = Float8Rows.rounded(x, gelu)
    if out is None:
        return rounded
    out.scale.copy_(rounded.scale)
    out.values.copy_(rounded.values)
    return out


def product(x: Float8Rows, weight: Float8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x @ weight.T + bias, summed in float32.

    Args:
        x: [..., in]. weight: [out, in]. bias: [out].
    Returns:
        [..., out] in `dtype`; a GPU rounds to bfloat16 before.
    """
    return multiply(x.flatten(0, -2), weight, bias, dtype).unflatten(0, x.shape[:-1])


@contextmanager
def float8_weights(layer: nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Float8Rows, Tensor | None]]:
    """Weight of a plain torch layer with one scale per output channel, and its bias. ComfyUI's layers bring their own version of this."""
    bias = layer._parameters.get("bias")
    yield quantise_rows(layer.get_parameter("weight").to(device, dtype)), None if bias is None else bias.to(device, dtype)


class Float8Linears(Linears):
    """Products of float8 values: one scale per token, one per output channel. A layer that was changed by others runs as it is.

    Args:
        dtype: that of the results.
        weights: gives the weight of a layer in float8.
    """

    rounding = "fp8"

    def __init__(self, dtype: torch.dtype, weights: Float8Weights = float8_weights):
        self.dtype = dtype
        self.weights = weights

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return FLOAT8

    def __call__(self, layer: nn.Module, x: Activation) -> Tensor:
        with self._opened(layer, x.device) as run:
            return run(x if isinstance(x, Float8Rows) else quantise_rows(x))

    def feed_forward(self, first: nn.Module, second: nn.Module, x: Activation, cast: CastWeights, chunk_rows: int = CHUNK_ROWS) -> Tensor:
        shape = x.shape
        rows = x.flatten(0, 1) if isinstance(x, Float8Rows) else quantise_rows(x.flatten(0, 1))
        hidden = None
        with self._opened(first, x.device) as run:
            for chunk in row_chunks(len(rows.values), chunk_rows):
                part = run(rows[chunk])
                hidden = Float8Rows.empty((shape[0] * shape[1], part.shape[-1]), x.device) if hidden is None else hidden
                quantise_rows(part, gelu=True, out=hidden[chunk])
        assert hidden is not None
        return self(second, hidden).unflatten(0, shape[:2])

    @contextmanager
    def _opened(self, layer: nn.Module, device: torch.device) -> Iterator[Callable[[Float8Rows], Tensor]]:
        """The layer as a function, with its weight at hand."""
        if is_changed(layer):
            yield lambda rows: layer(rows.to(self.dtype))
            return
        with self.weights(layer, self.dtype, device) as (weight, bias):
            yield lambda rows: product(rows, weight, bias, self.dtype)


@functools.cache
def float8_works(device: torch.device) -> bool:
    """Whether the float8 code runs on this GPU and agrees with that of the CPU; found out once, a failure is logged."""
    unused = "the linear layers compute as without it"
    if not way_of(device):
        logger.warning("speed: fp8 products do not work here; %s", unused)
        return False
    return passes(
        lambda: _disagreement(device),
        TOLERANCE,
        fails=f"speed: fp8 does not run here (%s); {unused}",
        differs=f"speed: fp8 is wrong by %.1e here; {unused}",
    )


def _disagreement(device: torch.device) -> float:
    """The largest relative difference between the GPU's and the plain computation on a small example with loud rows and channels."""
    generator = torch.Generator().manual_seed(0)
    length, dim, width = 63, 1280, 1280  # an odd number of rows, each more than one chunk

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * torch.logspace(-1, 1, shape[-2])[:, None]

    x, y, matrix, bias = noise(1, length, dim), noise(1, length, dim), noise(width, dim) / math.sqrt(dim), noise(1, width)[0]
    scale, shift = noise(2, 1, dim).unsqueeze(1)

    def compute(where: torch.device) -> list[Tensor]:
        there = [tensor.to(where) for tensor in (x, y, scale, shift, matrix, bias)]
        return [result.cpu() for result in _example(*there)]

    pairs = zip(compute(device), compute(torch.device("cpu")), strict=True)
    return float(torch.stack([(ours - theirs).norm() / theirs.norm() for ours, theirs in pairs]).max())


def _example(x: Tensor, y: Tensor, scale: Tensor, shift: Tensor, matrix: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Every float8 operation once."""
    length = x.shape[1]
    normed = modulated_norm(x, shift, scale, length, EPS, FLOAT8)
    total, summed = add_then_norm(x, y, None, (shift, scale, 1.0), length, EPS, dtype=FLOAT8)
    weight = quantise_rows(matrix)
    assert isinstance(normed, Float8Rows)
    yield product(normed, weight, bias, torch.float32)
    yield product(normed.flatten(0, 1)[ALIGNED_ROWS:], weight, bias, torch.float32)
    yield from (rows.to(torch.float32) for rows in (normed, summed, weight, quantise_rows(x, gelu=True)))
    yield total
    angle = y[0, :, : HEAD_DIM // 2].contiguous()
    for smooth in (False, True):
        heads = rms_norm_rope_float8(x.clone(), scale[0, 0].contiguous(), EPS, (angle.cos(), angle.sin()), x.shape[-1] // HEAD_DIM, smooth)
        yield heads.to(torch.float32)
