"""What earlier versions of the pack wrote into the fingerprint of a run: with the same inputs such a run goes on."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ..checkpoints.file_format import INDEX_SUFFIX
from ..checkpoints.shards import shard_files
from ..conditioning.plan import Plan
from ..origin import digest
from .fingerprint import silence_of, speakers_of, text_of
from .identity import CACHE_SETTINGS, model_file, tensors_of
from .manifest import Value
from .stable_text import sample, stable_text, without_addresses

NESTED_BY_NAME = 1  # the depth of `stable_text`


def earlier_texts(model: Any, positive: list, negative: list, plan: Plan, vae: Any) -> Mapping[str, Callable[[], tuple[Value, ...]]]:
    """By the name in the fingerprint: what counts as the same, besides what today's rules give. For arguments see `run_fingerprint`.

    First by the rules of the first versions, then by those that named encodings by their bytes.
    """
    weights = vae.first_stage_model
    poses = plan.pose_latents or ()
    history = () if plan.history is None else (plan.history,)
    return {
        "model": lambda: (_model(model),),
        "loras": lambda: (_loras(model),),
        "model_nodes": lambda: (_attachments(model),),
        "vae": lambda: (f"{vae.vae_dtype} {_small_weights(weights)}", f"{vae.vae_dtype} {sample(weights)}"),
        "prompt": lambda: _by_bytes(partial(text_of, positive)),
        "negative_prompt": lambda: _by_bytes(partial(text_of, negative)),
        "audio": lambda: _by_bytes(lambda digest_of: digest_of(plan.audio_features, plan.waveform)),
        "silence": lambda: _by_bytes(partial(silence_of, plan)),
        "speakers": lambda: (speakers_of(plan, digest),),
        "picture": lambda: (digest(plan.ref_latents),),
        "pose": lambda: (digest(*poses),),
        "previous_frames": lambda: (digest(*history),),
    }


def _by_bytes(text: Callable[[Callable[..., str]], str]) -> tuple[str, str]:
    return text(digest_of_floats), text(digest)


def digest_of_floats(*tensors: torch.Tensor) -> str:
    """Hash of shapes and values, as float32."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(str(tuple(tensor.shape)).encode())
        for part in tensor.detach().unbind() if tensor.ndim > 1 else (tensor.detach(),):
            hashed.update(part.cpu().float().contiguous().numpy().data)
    return hashed.hexdigest()[:16] if tensors else ""


def _model(model: Any) -> str:
    """Name, size in bytes and time of change of the file, or of every shard, and the options it was loaded with."""
    path = model_file(model)
    if path is None:
        return f"weights {_small_weights(model.model)}"
    shards = shard_files(path) if path.name.endswith(INDEX_SUFFIX) else []
    files = " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in (path, *shards))
    return f"{files} {without_addresses(str(model.cached_patcher_init[1][1:]))}"


def _small_weights(network: torch.nn.Module) -> str:
    """Hash of the biases and norms."""
    named = sorted(network.named_parameters())
    return digest_of_floats(*(value.detach() for _, value in named if value.ndim == 1 and not value.is_meta))


def _loras(model: Any) -> str:
    hashed = hashlib.sha256()
    for key, patches in sorted(model.patches.items(), key=lambda item: str(item[0])):
        for patch in patches:
            hashed.update(f"{key} {patch[0]}".encode())
            hashed.update(digest_of_floats(*tensors_of(getattr(patch[1], "weights", patch[1]))).encode())
    return hashed.hexdigest()[:16]


def _attachments(model: Any) -> str:
    """Hooks inside of the network by name, the rest with its numbers."""
    options = model.model_options.get("transformer_options", {})
    hooks = [f"{kind} {key}" for kind, wrappers in model.wrappers.items() for key, functions in wrappers.items() if functions]
    hooks += [f"patch {name} {_patch_names(patches)}" for name, patches in options.get("patches", {}).items()]
    hooks += [f"replace {name} {_patch_names(patches)}" for name, patches in options.get("patches_replace", {}).items()]
    numbers = {name: value for name, value in vars(options.get("easycache", object)).items() if name in CACHE_SETTINGS}
    shift = {"shift": float(model.object_patches["model_sampling"].shift)} if "model_sampling" in model.object_patches else {}
    changes = {name: value for name, value in model.model_options.items() if name != "transformer_options"}
    replaced = {name: value for name, value in model.object_patches.items() if name != "model_sampling"}
    others = {name: stable_text(value, NESTED_BY_NAME) for name, value in sorted({**changes, **replaced}.items())}
    return " ".join((*sorted(hooks), *(f"{name}={value}" for name, value in {**numbers, **shift, **others}.items())))


def _patch_names(patches: Any) -> str:
    return without_addresses(" ".join(str(key) for key in patches)) if isinstance(patches, dict) else str(len(patches))
