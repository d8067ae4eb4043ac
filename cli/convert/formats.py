"""The formats into which matrices are packed: those that ComfyUI's mixed precision layers compute with, made by its own library.

Needs PyTorch and comfy-kitchen, which come with ComfyUI.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy_kitchen.tensor
import torch
from torch import Tensor

ROTATED_GROUPS = (256, 64, 16)  # inputs that are rotated together: the largest that divides a row


@dataclass(frozen=True)
class Format:
    """How a matrix is stored.

    Attributes:
        layout: the class of comfy-kitchen that packs it.
        mark: what ComfyUI reads beside the weight.
        options: for the packing.
        is_rotated: inputs are turned by Hadamard matrices first, which spreads what is loud in one of them over its group.
    """

    layout: str
    mark: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    is_rotated: bool = False


FORMATS = {
    "fp8_scaled": Format(
        "TensorCoreFP8Layout",
        {"format": "float8_e4m3fn", "full_precision_matrix_mult": True},  # else ComfyUI cuts off inputs beyond 448
        {"dtype": torch.float8_e4m3fn},
    ),
    "mxfp8": Format("TensorCoreMXFP8Layout", {"format": "mxfp8"}),
    "nvfp4": Format("TensorCoreNVFP4Layout", {"format": "nvfp4"}),
    "int8": Format("TensorWiseINT8Layout", {"format": "int8_tensorwise"}, {"per_channel": True}),
    "int8_rotated": Format("TensorWiseINT8Layout", {"format": "int8_tensorwise"}, {"per_channel": True}, is_rotated=True),
}


def packed(weight: Tensor, name: str) -> dict[str, Tensor]:
    """A matrix [out, in] as the format stores it: the tensors by what follows the name of their layer (`.weight`, `.weight_scale`, ...)."""
    chosen = FORMATS[name]
    rotation = _rotation(weight.shape[1]) if chosen.is_rotated else {}
    layout = getattr(comfy_kitchen.tensor, chosen.layout)
    scale = None if weight.any() else torch.ones(())  # nothing can be divided by the largest value of zeros
    values, settings = layout.quantize(weight.float().contiguous(), scale=scale, **chosen.options, **rotation)
    parts = {f".weight{suffix}": tensor for suffix, tensor in layout.state_dict_tensors(values, settings).items()}
    mark = json.dumps({**chosen.mark, **rotation}).encode()
    return {**{suffix: _storable(tensor) for suffix, tensor in parts.items()}, ".comfy_quant": torch.tensor(list(mark), dtype=torch.uint8)}


@functools.cache
def packed_parts(shape: tuple[int, int], name: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of what `packed` gives for a matrix of this shape."""
    return {suffix: (tensor.dtype, tuple(tensor.shape)) for suffix, tensor in packed(torch.zeros(shape), name).items()}


def can_pack(shape: tuple[int, ...]) -> bool:
    """Whether every format stores a matrix of this shape without padding."""
    return len(shape) == 2 and all(size % 32 == 0 for size in shape)


def _rotation(width: int) -> dict[str, Any]:
    group = next(size for size in ROTATED_GROUPS if width % size == 0)
    return {"convrot": True, "convrot_groupsize": group}


def _storable(tensor: Tensor) -> Tensor:
    """Scales that are bare exponents as bytes, which older readers of safetensors know; ComfyUI takes both."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e8m0fnu else tensor


def num_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes in a file."""
    return math.prod(shape) * dtype.itemsize
