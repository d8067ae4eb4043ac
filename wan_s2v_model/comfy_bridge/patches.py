"""What other nodes have put on a MODEL and ComfyUI does not carry to our transformer: raw parameters of LoRAs, and replaced modules.

ComfyUI's patchers patch the parameters of layers only. One that belongs to a module with layers inside (`blocks.0.modulation`) keeps its
value, although the patch counts as attached. Here such a parameter gets its patched value as an object patch.
"""

import logging
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

logger = logging.getLogger("wan_s2v")
ROOT = "diffusion_model."
LIVE_KEY = "wan_s2v_live_avatar"  # of an attachment of a MODEL that has Live-Avatar's LoRA
TAKES_NATIVE_ARGUMENTS = re.compile(r"blocks\.\d+\.(cross_attn|ffn)")


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


def take_replaced_modules(model: comfy.model_patcher.ModelPatcher) -> dict[str, Callable[..., Tensor]]:
    """Take what other nodes have put in place of modules of the transformer off a MODEL; return the forwards that ours calls, too.

    Those of the cross attention (WanVideoNAG) and of the feed-forward have arguments that our blocks can give. What replaces another
    module does not run here, and a warning names it.
    """
    modules = {name for name, module in model.model.diffusion_model.named_modules() if next(module.children(), None) is not None}
    forwards, ignored = {}, {}
    for key in [key for key in model.object_patches if key.startswith(ROOT)]:
        path = key.removeprefix(ROOT).removesuffix(".forward")
        if path not in modules:
            continue
        patch = model.object_patches.pop(key)
        if key.endswith(".forward") and TAKES_NATIVE_ARGUMENTS.fullmatch(path):
            forwards[path] = patch
        else:
            ignored[re.sub(r"\d+", "*", path)] = patch
    for path, patch in ignored.items():
        logger.warning("another node has replaced %s (%s): that has no effect with Wan S2V's own sampler", path, origin(patch))
    return forwards


def mark_for_live(model: comfy.model_patcher.ModelPatcher) -> None:
    """Note on a MODEL, and on what is cloned of it, that it has Live-Avatar's LoRA."""
    model.set_attachments(LIVE_KEY, True)


def is_for_live(model: comfy.model_patcher.ModelPatcher) -> bool:
    """Whether a MODEL has Live-Avatar's LoRA, from our node."""
    return model.get_attachment(LIVE_KEY) is not None


def origin(patch: Any) -> str:
    """Where the code of a patch comes from, in words."""
    function = getattr(patch, "__func__", getattr(patch, "func", patch))
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def bound_to(forward: Callable[..., Tensor], module: nn.Module) -> Callable[..., Tensor]:
    """A method of a module as that of another one."""
    if isinstance(forward, types.MethodType) and isinstance(forward.__self__, nn.Module):
        return types.MethodType(forward.__func__, module)
    return forward
