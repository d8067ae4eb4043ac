"""Quantised weights in a file: each such layer has scales, and a mark that says in which format its weight is stored.

ComfyUI takes every layer of an older file for e4m3, has scales for matrices only, and meets what is missing while it samples.
"""

import json
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..untrusted import read_json, shown
from .file_format import AGAIN_OR_OTHER, CheckpointError, listing
from .identify import OTHER_FILE, require_known_quantisation

logger = logging.getLogger("wan_s2v")
MARK_SUFFIX = ".comfy_quant"  # JSON in bytes
LONGEST_MARK = 10_000  # bytes
QUANTISATION_SUFFIXES = (
    MARK_SUFFIX,
    *(".weight_scale", ".input_scale", ".scale_weight", ".scale_input", ".weight_scale_2", ".pre_quant_scale"),
)
OLD_SUFFIXES = {".scale_weight": ".weight_scale", ".scale_input": ".input_scale"}
FLOAT8_NAMES = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
FULL_RANGE = 0.5  # of the largest float8: what was divided by a scale reaches beyond, weights as they are do not


@dataclass(frozen=True)
class Packing:
    """How a format of ComfyUI stores a matrix.

    Attributes:
        dtype: that of the stored numbers.
        values: of the matrix, next to each other in a row, in one stored number.
        scales: rows and columns of the matrix -> how many numbers `weight_scale` may have.
        further: scales of one number that the format has besides.
    """

    dtype: torch.dtype
    values: int
    scales: Callable[[int, int], set[int]]
    further: tuple[str, ...] = ()


def _blocks(size: int) -> Callable[[int, int], set[int]]:
    """One scale for `size` values of a row, in tiles of 128 rows and 4 blocks, which tensor cores read."""
    return lambda rows, columns: {math.ceil(rows / 128) * 128 * math.ceil(columns / size / 4) * 4}


PACKINGS = {
    "nvfp4": Packing(torch.uint8, 2, _blocks(16), ("weight_scale_2",)),
    "mxfp8": Packing(torch.float8_e4m3fn, 1, _blocks(32)),
    "int8_tensorwise": Packing(torch.int8, 1, lambda rows, columns: {1, rows}),
    "convrot_w4a4": Packing(torch.int8, 2, lambda rows, columns: {rows}),
}


def is_quantisation(name: str) -> bool:
    """Whether a tensor describes how others are stored."""
    return name.endswith(QUANTISATION_SUFFIXES) or name == "scaled_fp8"


def require_marks(names: Sequence[str], file_name: str) -> None:
    """Raise CheckpointError if a layer has a quantisation scale, but no mark of its format, so that the scale would not be used."""
    layers = {suffix: {name.removesuffix(suffix) for name in names if name.endswith(suffix)} for suffix in QUANTISATION_SUFFIXES}
    bare = sorted(set().union(*layers.values()) - layers[MARK_SUFFIX])
    if bare:
        raise CheckpointError(
            f"{file_name} does not say how its quantised weights are stored: {listing('without a mark', bare)}. "
            f"It is not made for ComfyUI, or a program that rewrote it has dropped that. {OTHER_FILE}"
        )


def fit_marks(tensors: Mapping[str, Tensor], formats: Collection[str], file_name: str) -> dict[str, Tensor]:
    """The tensors with marks that say how each matrix is really stored; scaled weights that ComfyUI has no layer for multiplied out.

    Args:
        tensors: of a whole file. formats: those that ComfyUI computes with.
    Raises:
        CheckpointError: if a mark or a scale is missing, does not fit its weight or cannot be read, or the format is not known.
    """
    require_known_quantisation(tensors.keys(), file_name)
    fitted = _with_float8_marks(tensors)
    require_marks(list(fitted), file_name)
    layers = [name.removesuffix(MARK_SUFFIX) for name in fitted if name.endswith(MARK_SUFFIX)]
    unpacked = []
    for layer in layers:
        mark = _read_mark(fitted[layer + MARK_SUFFIX], layer, formats, file_name)
        if mark["format"] in PACKINGS:
            _require_packing(fitted, layer, mark["format"], file_name)
        elif mark["format"] in FLOAT8_NAMES.values() and _fit_float8(fitted, layer, mark, file_name):
            unpacked.append(layer)
    if unpacked:
        logger.info("%s: %s", file_name, listing("with scales that ComfyUI has no layers for are unpacked to 16 bits", unpacked))
    described = {f"{layer}.weight" for layer in layers}
    bare = sorted(name for name, tensor in fitted.items() if name not in described and _needs_scale(name, tensor, in_float8=bool(layers)))
    if bare:
        raise CheckpointError(f"{file_name} is incomplete: {listing('without their scale', bare)}. {AGAIN_OR_OTHER}")
    return fitted


def holds(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether any matrix is stored in a format. For tensors from `fit_marks`."""
    return any(_format_of(tensor) == name for layer, tensor in tensors.items() if layer.endswith(MARK_SUFFIX))


def logical_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor stands for; stored ones of packed matrices have shorter rows. For tensors from `fit_marks`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in tensors:
        if name.endswith(MARK_SUFFIX):
            packing = PACKINGS.get(_format_of(tensors[name]))
            weight = name.removesuffix(MARK_SUFFIX) + ".weight"
            if packing and len(shapes.get(weight, ())) == 2:
                rows, columns = shapes[weight]
                shapes[weight] = (rows, columns * packing.values)
    return shapes


def _with_float8_marks(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a mark for each float8 weight that has a scale; its type says all, only not how to compute, so exactly."""
    marked = {}
    for name, tensor in tensors.items():
        old = next((suffix for suffix in OLD_SUFFIXES if name.endswith(suffix)), "")
        marked[name.removesuffix(old) + OLD_SUFFIXES[old] if old else name] = tensor
    for name, weight in tensors.items():
        layer = name.removesuffix(".weight")
        is_scaled = weight.dtype in FLOAT8_NAMES and f"{layer}.weight_scale" in marked
        if is_scaled and layer + MARK_SUFFIX not in marked:
            marked[layer + MARK_SUFFIX] = _mark({"format": FLOAT8_NAMES[weight.dtype], "full_precision_matrix_mult": True})
    return marked


def _require_packing(tensors: Mapping[str, Tensor], layer: str, name: str, file_name: str) -> None:
    """Raise CheckpointError unless weight and scales of a layer are as its format has them."""
    packing, weight = PACKINGS[name], tensors.get(f"{layer}.weight")
    if weight is None:
        return  # named with all that is missing
    if weight.dtype != packing.dtype or weight.ndim != 2:
        stored = f"{weight.dtype} {tuple(weight.shape)}"
        raise CheckpointError(f"{file_name}: {layer} is marked as {name}, but stored as {stored}. {AGAIN_OR_OTHER}")
    rows, columns = weight.shape[0], weight.shape[1] * packing.values
    counts = {"weight_scale": packing.scales(rows, columns), **{part: {1} for part in packing.further}}
    for part, allowed in counts.items():
        scale = tensors.get(f"{layer}.{part}")
        if scale is None or scale.numel() not in allowed:
            has = f"no {part}" if scale is None else f"a {part} of the shape {tuple(scale.shape)}"
            wanted = " or ".join(f"{count:,}" for count in sorted(allowed))
            raise CheckpointError(
                f"{file_name} is incomplete: the layer {layer}, stored as {name}, has {has} instead of {wanted} numbers. {AGAIN_OR_OTHER}"
            )


def _fit_float8(tensors: dict[str, Tensor], layer: str, mark: dict[str, Any], file_name: str) -> bool:
    """Give a float8 layer the right mark, or multiply it out where ComfyUI has no layer for it; whether the latter was done."""
    weight, scale = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.weight_scale")
    if weight is None:
        return False
    if weight.dtype not in FLOAT8_NAMES:
        raise CheckpointError(f"{file_name}: {layer} is marked as {mark['format']}, but stored as {weight.dtype}. {AGAIN_OR_OTHER}")
    spread = None if scale is None else _spread(scale.float(), weight.shape)
    if scale is None or spread is None:
        has = "no scale" if scale is None else f"a scale of the shape {tuple(scale.shape)}, which does not divide {tuple(weight.shape)}"
        raise CheckpointError(f"{file_name} is incomplete: the quantised layer {layer} has {has}. {AGAIN_OR_OTHER}")
    if weight.ndim == 2 and scale.numel() == 1:
        tensors[layer + MARK_SUFFIX] = _mark({**mark, "format": FLOAT8_NAMES[weight.dtype]})
        return False
    product = weight.float() * spread
    tensors[f"{layer}.weight"] = product.bfloat16() if weight.ndim == 2 else product
    for suffix in QUANTISATION_SUFFIXES:
        tensors.pop(layer + suffix, None)
    return True


def _spread(scale: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Scales for a tensor, for its rows, or for equal blocks of a matrix, in a form that multiplies it; None if they do not divide it."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows, columns = shape[0], math.prod(shape[1:])
    blocks = scale.squeeze(-1) if scale.ndim > 2 else scale
    blocks = blocks[:, None] if blocks.ndim == 1 else blocks
    if blocks.ndim != 2 or 0 in blocks.shape or rows % len(blocks) or columns % blocks.shape[1]:
        return None
    by_row = blocks.repeat_interleave(rows // len(blocks), 0)
    return by_row.repeat_interleave(columns // blocks.shape[1], 1).reshape(tuple(shape))


def _format_of(mark: Tensor) -> str:
    return read_json(bytes(mark.tolist()))["format"]


def _mark(stored: dict[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(stored).encode()), dtype=torch.uint8)


def _read_mark(stored: Tensor, layer: str, formats: Collection[str], file_name: str) -> dict[str, Any]:
    try:
        if stored.numel() > LONGEST_MARK:
            raise ValueError("it is no mark")
        mark = read_json(bytes(stored.tolist()))
        name = str(mark["format"])
    except (ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{file_name}: the mark of its quantised layer {layer} cannot be read. {AGAIN_OR_OTHER}") from error
    if name not in formats:
        raise CheckpointError(f"{file_name}: {layer} is stored as {shown(name)}, which this ComfyUI does not know. Update it. {OTHER_FILE}")
    return mark


def _needs_scale(name: str, tensor: Tensor, in_float8: bool) -> bool:
    """Whether a weight without a mark cannot be what its numbers say; `in_float8`: others of the file have scales."""
    if not name.endswith(".weight"):
        return False
    if not tensor.dtype.is_floating_point:
        return True
    if not in_float8 or tensor.ndim != 2 or tensor.dtype not in FLOAT8_NAMES:
        return False
    return float(tensor.float().abs().amax()) > FULL_RANGE * torch.finfo(tensor.dtype).max
