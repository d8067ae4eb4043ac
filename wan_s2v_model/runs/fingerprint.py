"""What decides the result of a run, by hash: the manifest of the run folder holds it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.file_format import INDEX_SUFFIX
from ..checkpoints.shards import shard_files
from ..conditioning.clip import ALL_STEPS
from ..conditioning.plan import AS_REFERENCE, Plan
from ..conditioning.prompts import PROMPT_KEY
from ..constants import MOTION_LATENTS
from .manifest import Fingerprint
from .stable_text import digest, stable_text, without_addresses

ADDED_LATER: Fingerprint = {  # names with what was done before
    "cfg_start": 0.0,
    "cfg_end": 1.0,
    "vae_warmup": MOTION_LATENTS,
    "latent_anchor": 0.0,
    "colour_anchor": 0.0,
    "seed_policy": AS_REFERENCE.seed_policy,
    "silence": "",
    "audio_history": "first frame",
    "audio_guidance": "",
    "audio_strength": 1.0,
    "pose_start": ALL_STEPS[0],
    "pose_end": ALL_STEPS[1],
}
NOT_RECORDED_EARLIER = ("vae", "model_nodes")
CACHE_SETTINGS = ("name", "reuse_threshold", "start_percent", "end_percent")
OF_THE_ENCODER = {PROMPT_KEY, "pooled_output", "attention_mask"}  # go with the embedding


def run_fingerprint(model: Any, positive: list, negative: list, plan: Plan, settings: Any, seed: int, vae: Any) -> Fingerprint:
    """Everything that decides the result, for the manifest of the run."""
    timeline = plan.timeline
    return {
        **model_identity(model),
        "model_nodes": _attachments(model),
        "vae": f"{vae.vae_dtype} {_small_weights(vae.first_stage_model)}",
        "prompt": _text(positive),
        "negative_prompt": _text(negative),
        "audio": digest(plan.audio_features, plan.waveform),
        "picture": digest(plan.ref_latents),
        "pose": digest(*(plan.pose_latents or ())),
        "previous_frames": digest(*(() if plan.history is None else (plan.history,))),
        "width": plan.width,
        "height": plan.height,
        "frames_per_clip": timeline.frames_per_clip,
        "clips": timeline.num_clips,
        "sync_mode": timeline.sync_mode,
        "seed": seed,
        "steps": settings.steps,
        "cfg": settings.cfg,
        "shift": settings.shift,
        "solver": settings.solver if settings.sampler is None else _sampler_name(settings.sampler),
        "sigmas": digest(*(() if settings.sigmas is None else (settings.sigmas,))),
        "cfg_start": settings.cfg_start,
        "cfg_end": settings.cfg_end,
        "vae_warmup": settings.vae_warmup,
        "latent_anchor": plan.continuity.latent_strength,
        "colour_anchor": plan.continuity.colour_strength,
        "seed_policy": plan.continuity.seed_policy,
        "silence": "" if plan.silence is None else digest(plan.silence.features, torch.tensor(sorted(plan.silence.pauses))),
        "audio_history": "real" if plan.real_audio_history else "first frame",
        "audio_guidance": _audio_guidance(settings),
        "audio_strength": 1.0 if settings.audio is None else settings.audio.strength,
        "pose_start": plan.pose_steps[0],
        "pose_end": plan.pose_steps[1],
    }


def assumed_in_older_runs(fingerprint: Fingerprint) -> Fingerprint:
    """What counts for a run whose manifest lacks a name, because the version of the pack that made it did not know the name yet."""
    return {**ADDED_LATER, **{name: fingerprint[name] for name in NOT_RECORDED_EARLIER}}


def _text(conditioning: list) -> str:
    """The embeddings, and the clips from which scheduled ones hold."""
    prompts = [options[PROMPT_KEY] for _, options in conditioning if PROMPT_KEY in options]
    starts = (f"clip {prompt.start_clip} blend {prompt.blend_clips}" for prompt in prompts)
    return " ".join((digest(*(item[0] for item in conditioning)), *starts, *_settings_of_texts(conditioning)))


def _settings_of_texts(conditioning: list) -> Iterator[str]:
    """What other nodes have set on each CONDITIONING: strengths, ranges of steps, masks, hooks."""
    for index, (_, options) in enumerate(conditioning):
        for name in sorted(set(options) - OF_THE_ENCODER):
            value = options[name]
            yield f"{index} {name} {' '.join(map(_hook, value.hooks)) if name == 'hooks' else stable_text(value)}"


def _hook(hook: Any) -> str:
    """A LoRA or other change of weights that holds for one CONDITIONING."""
    strengths = [getattr(hook, name, None) for name in ("_strength_model", "_strength_clip")]
    keyframes = [(frame.strength, frame.start_percent, frame.guarantee_steps) for frame in hook.hook_keyframe.keyframes]
    weights = getattr(hook, "weights", None) or {}
    tensors = [tensor for key in sorted(weights, key=str) for tensor in _tensors(getattr(weights[key], "weights", weights[key]))]
    return f"{type(hook).__name__} {strengths} {keyframes} {digest(*tensors)}"


def _audio_guidance(settings: Any) -> str:
    """Empty where prompt and sound are guided together, as in runs from before they could be guided apart."""
    audio = settings.audio
    if audio is None or (audio.cfg, audio.start, audio.end) == (settings.cfg, settings.cfg_start, settings.cfg_end):
        return ""
    return f"{audio.cfg} from {audio.start} to {audio.end}"


def _attachments(model: Any) -> str:
    """What other nodes have put on the MODEL: hooks inside of the network by name, the rest with its numbers."""
    options = model.model_options.get("transformer_options", {})
    hooks = [f"{kind} {key}" for kind, wrappers in model.wrappers.items() for key, functions in wrappers.items() if functions]
    hooks += [f"patch {name} {_patch_names(patches)}" for name, patches in options.get("patches", {}).items()]
    hooks += [f"replace {name} {_patch_names(patches)}" for name, patches in options.get("patches_replace", {}).items()]
    numbers = {name: value for name, value in vars(options.get("easycache", object)).items() if name in CACHE_SETTINGS}
    shift = {"shift": float(model.object_patches["model_sampling"].shift)} if "model_sampling" in model.object_patches else {}
    changes = {name: value for name, value in model.model_options.items() if name != "transformer_options"}
    replaced = {name: value for name, value in model.object_patches.items() if name != "model_sampling"}
    others = {name: stable_text(value) for name, value in sorted({**changes, **replaced}.items())}
    return " ".join((*sorted(hooks), *(f"{name}={value}" for name, value in {**numbers, **shift, **others}.items())))


def _patch_names(patches: Any) -> str:
    return without_addresses(" ".join(str(key) for key in patches)) if isinstance(patches, dict) else str(len(patches))


def _small_weights(network: torch.nn.Module) -> str:
    """Hash of the biases and norms: a thousandth of the weights, and training changes them all."""
    return digest(*(value.detach() for _, value in sorted(network.named_parameters()) if value.ndim == 1 and not value.is_meta))


def _sampler_name(sampler: Any) -> str:
    """All of ComfyUI's SAMPLERs are of one class; they differ by their function and its options."""
    function = getattr(sampler, "sampler_function", type(sampler))
    options = {name: stable_text(value) if callable(value) else value for name, value in getattr(sampler, "extra_options", {}).items()}
    return without_addresses(f"{getattr(function, '__name__', function)} {options}")


def model_identity(model: Any) -> dict[str, str]:
    """What tells two MODELs apart: the file and options it was loaded with, and its LoRAs by strength and content."""
    factory = model.cached_patcher_init
    path, options = (Path(factory[1][0]), factory[1][1:]) if factory is not None else (None, ())
    if path is not None and path.is_file():
        file = f"{_file_identity(path)} {without_addresses(str(options))}"
    else:
        file = f"weights {_small_weights(model.model)}"
    loras = hashlib.sha256()
    for key, patches in sorted(model.patches.items(), key=lambda item: str(item[0])):
        for patch in patches:
            loras.update(f"{key} {patch[0]}".encode())
            loras.update(digest(*_tensors(getattr(patch[1], "weights", patch[1]))).encode())
    return {"model": file, "loras": loras.hexdigest()[:16]}


def _file_identity(path: Path) -> str:
    """Name, size in bytes and time of change; of a model in shards those of every shard."""
    shards = shard_files(path) if path.name.endswith(INDEX_SUFFIX) else []
    return " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in (path, *shards))


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors and scales of a LoRA patch, which ComfyUI keeps in tuples of its own making."""
    if isinstance(value, torch.Tensor | float | int):  # a number is the alpha of an adapter
        return [torch.as_tensor(value)]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, tuple | list) else []
