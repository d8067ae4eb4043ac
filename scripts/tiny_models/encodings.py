"""The values of tensors as published files store them: types, float8 with scales, packed matrices. Imports nothing of the pack.

`as_...` is what a file stores, `exact_...` are the weights that it stands for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

EMBEDDINGS = ("trainable_cond_mask.weight", "shared.weight", "relative_attention_bias.weight")  # matrices that fp8 files leave alone
FP8 = torch.float8_e4m3fn
KITCHEN = {"nvfp4": "TensorCoreNVFP4Layout", "mxfp8": "TensorCoreMXFP8Layout"}
Q8_BLOCK = 32  # values that share one float16 scale


def as_bf16(tensors: Tensors) -> Tensors:
    return cast_floats(tensors, torch.bfloat16)


def as_fp16(tensors: Tensors) -> Tensors:
    return cast_floats(tensors, torch.float16)


def as_fp32(tensors: Tensors) -> Tensors:
    return cast_floats(tensors, torch.float32)


def cast_floats(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def exact_fp16(tensors: Tensors) -> Tensors:
    return as_fp32(as_fp16(tensors))


def as_fp8(tensors: Tensors, scale_name: str = "weight_scale") -> Tensors:
    """Matrices in float8 with one scale each, the rest in float16."""
    stored = as_fp16(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.ndim == 2 and not name.endswith(EMBEDDINGS):
            scale = tensor.float().abs().max() / torch.finfo(FP8).max
            stored[name] = (tensor.float() / scale).to(FP8)
            stored[f"{name.removesuffix('weight')}{scale_name}"] = scale
    return stored


def as_fp8_scaled(tensors: Tensors) -> Tensors:
    """The older spelling: one mark for the file; of two values, it asks for matrix products in full precision."""
    return {"scaled_fp8": torch.zeros(2, dtype=FP8), **as_fp8(tensors, "scale_weight")}


def as_fp8_scaled_text_encoder(tensors: Tensors) -> Tensors:
    return {**as_fp8_scaled(tensors), "scaled_fp8": torch.zeros(0, dtype=FP8)}


def as_fp8_layers(tensors: Tensors) -> Tensors:
    """The newer spelling: each layer says how it is stored."""
    stored = as_fp8(tensors)
    layers = [name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale")]
    return {**stored, **{f"{layer}.comfy_quant": mark("float8_e4m3fn") for layer in layers}}


def mark(quantisation: str) -> Tensor:
    """What ComfyUI reads beside a quantised weight: JSON in bytes."""
    return torch.tensor(list(json.dumps({"format": quantisation}).encode()), dtype=torch.uint8)


def exact_fp8(tensors: Tensors) -> Tensors:
    stored = as_fp8(tensors)
    scales = {name.removesuffix("_scale"): stored.pop(name) for name in list(stored) if name.endswith(".weight_scale")}
    return {name: tensor.float() * scales.get(name, 1) if tensor.is_floating_point() else tensor for name, tensor in stored.items()}


def as_fp8_rows(tensors: Tensors) -> Tensors:
    """As lightx2v: the matrices of the blocks in float8 with one scale for each row, and no mark."""
    stored = as_bf16(tensors)
    for layer in packed_layers(tensors):
        stored[f"{layer}.weight"], stored[f"{layer}.weight_scale"] = rows_in_fp8(tensors[f"{layer}.weight"])
    return stored


def exact_fp8_rows(tensors: Tensors) -> Tensors:
    """As our loader unpacks them, in bfloat16."""
    plain = dict(tensors)
    for layer in packed_layers(tensors):
        values, scale = rows_in_fp8(tensors[f"{layer}.weight"])
        plain[f"{layer}.weight"] = values.float() * scale
    return as_fp32(as_bf16(plain))


def rows_in_fp8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    scale = matrix.float().abs().amax(1, keepdim=True) / torch.finfo(FP8).max
    return (matrix / scale).to(FP8), scale


def as_packed(quantisation: str) -> Callable[[Tensors], Tensors]:
    """The matrices of the blocks in a format of ComfyUI's mixed precision layers, each with its mark; the rest in float16."""

    def encode(tensors: Tensors) -> Tensors:
        stored = as_fp16(tensors)
        for layer in packed_layers(tensors):
            values, settings = kitchen(quantisation).quantize(tensors[f"{layer}.weight"])
            parts = kitchen(quantisation).state_dict_tensors(values, settings)
            stored |= {f"{layer}.weight{suffix}": tensor for suffix, tensor in parts.items()}
            stored[f"{layer}.comfy_quant"] = mark(quantisation)
        return stored

    return encode


def exact_packed(quantisation: str) -> Callable[[Tensors], Tensors]:
    def encode(tensors: Tensors) -> Tensors:
        plain = exact_fp16(tensors)
        for layer in packed_layers(tensors):
            plain[f"{layer}.weight"] = kitchen(quantisation).dequantize(*kitchen(quantisation).quantize(tensors[f"{layer}.weight"]))
        return plain

    return encode


def kitchen(quantisation: str) -> Any:
    """The class of ComfyUI's library that packs a matrix and unpacks it."""
    import comfy_kitchen.tensor

    return getattr(comfy_kitchen.tensor, KITCHEN[quantisation])


def packed_layers(tensors: Tensors) -> list[str]:
    """Those whose matrices such files pack."""
    matrices = [name for name, tensor in tensors.items() if tensor.ndim == 2 and name.endswith(".weight") and not name.endswith(EMBEDDINGS)]
    return [name.removesuffix(".weight") for name in matrices if name.startswith(("blocks.", "encoder.block."))]


def as_q8_0(tensors: Tensors) -> Tensors:
    """All matrices in blocks of a float16 scale and 32 int8 values, as bytes; what the stand-in of a GGUF loader reads."""
    return {name: pack_q8_0(tensor) if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}


def pack_q8_0(tensor: Tensor) -> Tensor:
    """[rows, columns] -> [rows, columns / 32 * 34] bytes."""
    blocks = tensor.float().unflatten(-1, (-1, Q8_BLOCK))
    scales = (blocks.abs().amax(dim=-1, keepdim=True) / 127).half()
    values = (blocks / scales.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
    return torch.cat([scales.view(torch.uint8), values.view(torch.uint8)], dim=-1).flatten(-2)


def unpack_q8_0(data: Tensor) -> Tensor:
    """[rows, columns / 32 * 34] bytes -> [rows, columns] float32."""
    blocks = data.unflatten(-1, (-1, Q8_BLOCK + 2))
    return (blocks[..., 2:].view(torch.int8).float() * blocks[..., :2].contiguous().view(torch.float16).float()).flatten(-2)


def exact_q8_0(tensors: Tensors) -> Tensors:
    return {name: unpack_q8_0(pack_q8_0(tensor)) if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
