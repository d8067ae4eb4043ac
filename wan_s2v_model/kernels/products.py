"""The product of float8 rows with a float8 weight, summed in float32: in every way that a device may know.

torch's product with a scale for each row and each column (`inside`) has no kernel on some cards and systems: cuBLAS refuses it on
GeForce 50 (compute capability 12.0), and PyTorch for Windows is built without it. There the plain product of the values is scaled
afterwards (`behind`), which rounds to bfloat16 once or twice more. Which way works is found out once for each device, at the sizes of
the 14B model.
"""

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .float8 import FLOAT8, Float8Rows
from .self_test import passes
from .triton_works import kernels_work

logger = logging.getLogger("wan_s2v")
REAL_SHAPES = ((35_075, 5120, 5120), (17_537, 5120, 13_824), (17_537, 13_824, 5120))  # tokens, channels in and out: a clip of 832x480
CHECKED_ROWS = 64  # of the result, spread over all tokens
TOLERANCE = 1e-2  # relative, of each row: bfloat16 rounds by 0.2 % at most, three times
ON_HOST, INSIDE, BEHIND = "in float32", "inside", "behind"


def scaled_inside(rows: Float8Rows, weight: Float8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """rows [n, in] @ weight [out, in].T + bias -> [n, out]: the scales are part of the product."""
    bias = None if bias is None else bias.bfloat16()
    scales = {"scale_a": rows.scale, "scale_b": weight.scale.t()}
    return torch._scaled_mm(rows.values, weight.values.t(), **scales, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True).to(dtype)


def scaled_behind(rows: Float8Rows, weight: Float8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same from the product of the values alone, to which scales and bias are applied in one pass (Triton) or in two."""
    one = torch.ones((), device=rows.device)
    scales = {"scale_a": one, "scale_b": one}
    out = torch._scaled_mm(rows.values, weight.values.t(), **scales, out_dtype=torch.bfloat16, use_fast_accum=True)
    if kernels_work(rows.device):
        from . import triton_blocks

        triton_blocks.scale_product(out, rows.scale, weight.scale, bias)
        return out.to(dtype)
    out *= rows.scale
    columns = weight.scale.flatten()
    return (out.mul_(columns) if bias is None else torch.addcmul(bias, out, columns, out=out)).to(dtype)


def in_float32(rows: Float8Rows, weight: Float8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The same values multiplied in float32, without a GPU."""
    return F.linear(rows.to(torch.float32), weight.to(torch.float32), None if bias is None else bias.float()).to(dtype)


Way = Callable[[Float8Rows, Float8Rows, Tensor | None, torch.dtype], Tensor]
WAYS: dict[str, Way] = {ON_HOST: in_float32, INSIDE: scaled_inside, BEHIND: scaled_behind}


def multiply(rows: Float8Rows, weight: Float8Rows, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """rows [n, in] @ weight [out, in].T + bias [out] -> [n, out] in `dtype`, in the way of the device."""
    return WAYS[way_of(rows.device)](with_even_rows(rows), weight, bias, dtype)[: len(rows.values)]


@torch.compiler.assume_constant_result  # else torch.compile would trace the self-test
def way_of(device: torch.device) -> str:
    """A key of WAYS; "" where no float8 product works."""
    return _tested_way(device) if device.type == "cuda" else ON_HOST


@functools.cache
def _tested_way(device: torch.device) -> str:
    for name in (INSIDE, BEHIND):
        fails, differs = (
            f"fp8 products, scales {name} the product: {problem}" for problem in ("do not run here (%s)", "wrong by %.1e here")
        )
        if passes(lambda name=name: _largest_error(WAYS[name], device), TOLERANCE, fails=fails, differs=differs):  # type: ignore[misc]
            logger.info("fp8 products: scales %s the product", name)
            return name
    return ""


def _largest_error(way: Way, device: torch.device) -> float:
    """The largest relative error of a row, at the sizes of a real clip; rows and columns differ in size by orders of magnitude."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)

    def rows(count: int, dim: int) -> Float8Rows:
        return Float8Rows(noise(count, dim).mul_(64).to(FLOAT8), torch.logspace(-4, 1, count, device=device)[:, None])

    errors = []
    for tokens, width, out in REAL_SHAPES:
        x, weight, bias = rows(tokens, width), rows(out, width), noise(out)
        checked = torch.linspace(0, tokens - 1, min(CHECKED_ROWS, tokens), device=device).long()
        result = way(with_even_rows(x), weight, bias, torch.bfloat16)[checked].float()
        expected = in_float32(x[checked], weight, bias, torch.float32)
        errors.append(((result - expected).norm(dim=1) / expected.norm(dim=1)).max())
    return float(torch.stack(errors).max())


def with_even_rows(rows: Float8Rows) -> Float8Rows:
    """The rows [n, dim], with one of zeros behind an odd number of them, for which cuBLAS may have no kernel."""
    count, dim = rows.shape
    if count % 2 == 0:
        return rows
    padded = Float8Rows.empty((count + 1, dim), rows.device)
    for whole, part in ((padded.values, rows.values), (padded.scale, rows.scale)):
        whole[:count], whole[count:] = part, 0
    return padded
