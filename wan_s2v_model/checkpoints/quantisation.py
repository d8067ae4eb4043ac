"""Quantised weights in a file: each such layer has a scale, and a mark that says in which format its weight is stored.

ComfyUI takes every layer of an older file for e4m3, has scales for matrices only, and meets what is missing while it samples.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from .file_format import AGAIN_OR_OTHER, CheckpointError, listing

MARK_SUFFIX = ".comfy_quant"  # JSON in bytes
QUANTISATION_SUFFIXES = (MARK_SUFFIX, ".weight_scale", ".input_scale", ".scale_weight", ".scale_input", ".weight_scale_2")
FLOAT8_NAMES = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}
FULL_RANGE = 0.5  # of the largest float8: what was divided by a scale reaches beyond, weights as they are do not


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
            "A program that rewrote the file has dropped that. Pick the published file."
        )


def fit_marks(tensors: dict[str, Tensor], formats: Collection[str], file_name: str) -> dict[str, Tensor]:
    """The tensors with marks that say how each matrix is really stored; scaled weights of other layers multiplied out.

    Args:
        tensors: of a whole file, with a mark for each scale. formats: those that ComfyUI computes with.
    Raises:
        CheckpointError: if a mark or a scale is missing, or one of them cannot be read.
    """
    require_marks(list(tensors), file_name)
    fitted = dict(tensors)
    layers = [name.removesuffix(MARK_SUFFIX) for name in tensors if name.endswith(MARK_SUFFIX)]
    for layer in layers:
        _fit_layer(fitted, layer, _read_mark(tensors[layer + MARK_SUFFIX], layer, formats, file_name), file_name)
    described = {f"{layer}.weight" for layer in layers}
    bare = sorted(name for name, tensor in fitted.items() if name not in described and _needs_scale(name, tensor, in_float8=bool(layers)))
    if bare:
        raise CheckpointError(f"{file_name} is incomplete: {listing('without their scale', bare)}. {AGAIN_OR_OTHER}")
    return fitted


def _fit_layer(tensors: dict[str, Tensor], layer: str, mark: dict[str, Any], file_name: str) -> None:
    weight, scale = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.weight_scale")
    if weight is None or mark["format"] not in FLOAT8_NAMES.values():
        return
    if weight.dtype not in FLOAT8_NAMES:
        raise CheckpointError(f"{file_name}: {layer} is marked as {mark['format']}, but stored as {weight.dtype}. {AGAIN_OR_OTHER}")
    if scale is None or scale.numel() != 1:
        has = "no scale" if scale is None else f"a scale of the shape {tuple(scale.shape)} instead of a single number"
        raise CheckpointError(f"{file_name} is incomplete: the quantised layer {layer} has {has}. {AGAIN_OR_OTHER}")
    if weight.ndim == 2:
        stored = {**mark, "format": FLOAT8_NAMES[weight.dtype]}
        tensors[layer + MARK_SUFFIX] = torch.tensor(list(json.dumps(stored).encode()), dtype=torch.uint8)
        return
    tensors[f"{layer}.weight"] = weight.float() * scale.float()
    for suffix in QUANTISATION_SUFFIXES:
        tensors.pop(layer + suffix, None)


def _read_mark(stored: Tensor, layer: str, formats: Collection[str], file_name: str) -> dict[str, Any]:
    try:
        mark = json.loads(bytes(stored.tolist()))
        name = str(mark["format"])
    except (ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{file_name}: the mark of its quantised layer {layer} cannot be read. {AGAIN_OR_OTHER}") from error
    if name not in formats:
        raise CheckpointError(
            f"{file_name}: {layer} is stored as {name!r}, which this ComfyUI does not know. Update it or pick another file."
        )
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
