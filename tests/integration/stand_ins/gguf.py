"""A loader that brings its own layers, as GGUF loaders do.

Weights stay packed in tensors that answer with the shape of the unpacked weight. Each layer unpacks its own in `cast_bias_weight`, and
applies the LoRA patches that its patcher has left on the tensor. The file is the layout `dit_q8_0` of scripts/tiny_models/layouts.py.
"""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK, BYTES = 32, 34  # values of a block, and the bytes that hold them with their float16 scale


class PackedTensor(torch.Tensor):
    """A stored weight, packed or not, with the shape that it stands for."""

    logical_shape: torch.Size
    packed: bool
    patches: tuple = ()

    @classmethod
    def wrap(cls, data: Tensor, packed: bool) -> PackedTensor:
        tensor = data.as_subclass(cls)
        tensor.packed = packed
        tensor.logical_shape = torch.Size((data.size(0), data.size(1) // BYTES * BLOCK)) if packed else data.size()
        return tensor

    @property
    def shape(self) -> torch.Size:
        return getattr(self, "logical_shape", self.size())

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        moved = super().to(*args, **kwargs)
        if moved is not self and hasattr(self, "packed"):
            moved.packed, moved.logical_shape, moved.patches = self.packed, self.logical_shape, self.patches
        return moved

    def detach(self) -> PackedTensor:
        return self

    def clone(self, *_: Any, **__: Any) -> PackedTensor:
        return self


def is_packed(tensor: Tensor | None) -> bool:
    return getattr(tensor, "packed", False)


def unpack(tensor: PackedTensor) -> Tensor:
    """[rows, bytes] -> [rows, columns] float32."""
    blocks = tensor.as_subclass(torch.Tensor).unflatten(-1, (-1, BYTES))
    scales, values = blocks[..., :2].contiguous().view(torch.float16), blocks[..., 2:].view(torch.int8)
    return (values.float() * scales.float()).flatten(-2)


class PackedLayer(nn.Module):
    comfy_cast_weights = True

    def _load_from_state_dict(self, state_dict, prefix, *args):
        weight, bias = (state_dict.get(prefix + name) for name in ("weight", "bias"))
        if not (is_packed(weight) or isinstance(self, nn.Linear)):
            super()._load_from_state_dict(state_dict, prefix, *args)
            return
        self.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """Without the shape that the bytes stand for: ComfyUI asks for the size in memory only."""
        if not is_packed(self.weight):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            return
        destination[prefix + "weight"] = torch.zeros(self.weight.size(), dtype=torch.uint8, device="meta")
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias

    def unpacked(self, tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if tensor is None:
            return None
        weight = unpack(tensor) if is_packed(tensor) else tensor.as_subclass(torch.Tensor)
        for patches, key in getattr(tensor, "patches", ()):
            weight = comfy.lora.calculate_weight(patches, weight, key)
        return weight.to(dtype)

    def cast_bias_weight(self, input=None, dtype=None, device=None, bias_dtype=None):
        dtype = dtype or getattr(input, "dtype", torch.float32)
        device = device or input.device
        weight = self.unpacked(self.weight.to(device), dtype)
        return weight, None if self.bias is None else self.unpacked(self.bias.to(device), bias_dtype or dtype)

    def forward_comfy_cast_weights(self, input, *args, **kwargs):
        if is_packed(self.weight):
            return self.forward_packed(input, *args, **kwargs)
        return super().forward_comfy_cast_weights(input, *args, **kwargs)


class PackedOperations(comfy.ops.manual_cast):
    """`operations` of a model; convolutions and RMS norms, which are never packed, stay ComfyUI's."""

    class Linear(PackedLayer, comfy.ops.manual_cast.Linear):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None

        def forward_packed(self, input):
            return F.linear(input, *self.cast_bias_weight(input))

    class Embedding(PackedLayer, comfy.ops.manual_cast.Embedding):
        bias = None

        def forward_packed(self, input, out_dtype=None):
            return F.embedding(input, self.cast_bias_weight(device=input.device, dtype=out_dtype)[0])

    class LayerNorm(PackedLayer, comfy.ops.manual_cast.LayerNorm):
        def forward_packed(self, input):
            return F.layer_norm(input, self.normalized_shape, *self.cast_bias_weight(input), self.eps)


class PackedModelPatcher(comfy.model_patcher.ModelPatcher):
    """Leaves patches on packed tensors, for their layers to apply."""

    def patch_weight_to_device(self, key, device_to=None, inplace_update=False, **kwargs):
        weight = comfy.utils.get_attr(self.model, key)
        if key not in self.patches or not is_packed(weight):
            return super().patch_weight_to_device(key, device_to, inplace_update, **kwargs)
        patched = PackedTensor.wrap(weight.as_subclass(torch.Tensor).to(device_to), packed=True)
        patched.patches = ((self.patches[key], key),)
        return comfy.utils.set_attr_param(self.model, key, patched)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        if unpatch_weights:
            for parameter in self.model.parameters():
                if is_packed(parameter):
                    parameter.patches = ()
        super().unpatch_model(device_to, unpatch_weights)

    def load(self, *args, force_patch_weights=False, **kwargs):
        super().load(*args, force_patch_weights=True, **kwargs)


def load_packed(path: str) -> comfy.model_patcher.ModelPatcher:
    """A MODEL whose matrices stay packed."""
    tensors, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    wrapped = {name: PackedTensor.wrap(tensor, tensor.dtype == torch.uint8) for name, tensor in tensors.items()}
    options = {"custom_operations": PackedOperations}
    model = comfy.sd.load_diffusion_model_state_dict(wrapped, model_options=options, metadata=metadata, disable_dynamic=True)
    return PackedModelPatcher(model.model, model.load_device, model.offload_device)


class StandInGGUFLoader:
    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "load", ("MODEL",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"name": (folder_paths.get_filename_list("diffusion_models"),)}})

    def load(self, name):
        return (load_packed(folder_paths.get_full_path_or_raise("diffusion_models", name)),)
