"""The `speed` setting of the model loader: float8 products from ComfyUI's layers, whether their files hold bf16 or float8."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ..linears import EXACT, Float8Linears, Linears, float8_works
from ..quantised import FLOAT8, Float8Rows, quantise_rows

logger = logging.getLogger("wan_s2v")

SPEEDS = ("exact", "fp8 linears", "fp8 linears and attention")
FP8_CAPABILITY = (8, 9)  # GeForce 40, L40, H100 and newer


def pick_linears(speed: str, device: torch.device, dtype: torch.dtype) -> Linears:
    """How the blocks compute their products on this device: as the setting says, or exactly where float8 does not work."""
    return Float8Linears(dtype, comfy_float8_weights) if speed != SPEEDS[0] and _has_float8(device) else EXACT


def wants_float8_attention(speed: str) -> bool:
    return speed == SPEEDS[2]


@functools.cache
def _has_float8(device: torch.device) -> bool:
    is_nvidia = device.type == "cuda" and comfy.model_management.is_nvidia()
    if is_nvidia and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
        return float8_works(device)
    logger.warning("speed: fp8 needs an NVIDIA GPU of compute capability 8.9 or higher (GeForce 40, H100); this run is exact")
    return False


@contextmanager
def comfy_float8_weights(layer: nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Float8Rows, Tensor | None]]:
    """Weight and bias of a ComfyUI layer, LoRA applied, wherever they are stored; a float8 weight of the file stays as it is."""
    types = {"dtype": dtype, "bias_dtype": dtype, "compute_dtype": dtype}
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, device=device, offloadable=True, want_requant=True, **types)
    try:
        yield _as_rows(weight), bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _as_rows(weight: Tensor) -> Float8Rows:
    if not isinstance(weight, comfy.ops.QuantizedTensor):
        return quantise_rows(weight)
    values, scale = weight._qdata, weight._params.scale
    if values.dtype != FLOAT8 or scale.numel() != 1:
        return quantise_rows(weight.dequantize())
    return Float8Rows(values, scale.to(values.device, torch.float32).reshape(1, 1).repeat(values.shape[0], 1))
