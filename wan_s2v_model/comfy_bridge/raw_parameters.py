"""LoRA patches on parameters that ComfyUI's patchers pass over.

They patch the parameters of layers only. One that belongs to a module with layers inside (`blocks.0.modulation`) keeps its value,
although the patch counts as attached. Here such a parameter gets its patched value as an object patch.
"""

from collections.abc import Iterator

import comfy.float
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import nn

ROOT = "diffusion_model."


def patch_raw_parameters(model: comfy.model_patcher.ModelPatcher) -> None:
    """Put the patched values of raw parameters on a MODEL as object patches; they go when ComfyUI unpatches it.

    Changes `model`, which has to be a clone. May be called again after further patches.
    """
    for key in raw_parameters(model.model.diffusion_model, ROOT):
        if key in model.patches:
            model.add_object_patch(key, _patched(model, key))


def share_raw_parameters(transformer: nn.Module, model: comfy.model_patcher.ModelPatcher) -> None:
    """Let a transformer that shares the layers of a MODEL have its raw parameters too, with the patches of this MODEL and no other."""
    for key in raw_parameters(transformer):
        path, _, name = key.rpartition(".")
        transformer.get_submodule(path)._parameters[name] = model.get_model_object(ROOT + key)


def raw_parameters(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the parameters that belong to a module whose submodules have parameters too."""
    for path, inner in module.named_modules(prefix=prefix.rstrip(".")):
        own = [name for name, _ in inner.named_parameters(recurse=False)]
        if own and sum(1 for _ in inner.parameters()) > len(own):
            yield from (f"{path}.{name}" if path else name for name in own)


def _patched(model: comfy.model_patcher.ModelPatcher, key: str) -> nn.Parameter:
    """The patched value, computed in float32 on the CPU and rounded to the parameter's type, as ComfyUI does it for layers."""
    base = model.object_patches_backup.get(key)
    if base is None:
        base = comfy.utils.get_attr(model.model, key)
    weight = comfy.model_management.cast_to_device(base.detach(), torch.device("cpu"), torch.float32, copy=True)
    weight = comfy.lora.calculate_weight(model.patches[key], weight, key)
    weight = comfy.float.stochastic_rounding(weight, base.dtype, seed=comfy.utils.string_to_seed(key))
    return nn.Parameter(weight.to(model.load_device), requires_grad=False)
