"""What decides the result of a run, by hash: the manifest of the run folder holds it."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from .pipeline import Plan


def run_fingerprint(
    model: Any, positive: list, negative: list, plan: Plan, settings: Any, seed: int
) -> dict[str, str | int | float | bool | None]:
    """Everything that decides the result, for the manifest of the run."""
    timeline = plan.timeline
    return {
        **model_identity(model),
        "prompt": _digest(*(item[0] for item in positive)),
        "negative_prompt": _digest(*(item[0] for item in negative)),
        "audio": _digest(plan.audio_features, plan.waveform),
        "picture": _digest(plan.ref_latents),
        "pose": _digest(*(plan.pose_latents or ())),
        "previous_frames": _digest(*(() if plan.history is None else (plan.history,))),
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
        "sigmas": _digest(*(() if settings.sigmas is None else (settings.sigmas,))),
    }


def _sampler_name(sampler: Any) -> str:
    """All of ComfyUI's SAMPLERs are of one class; they differ by their function and its options."""
    function = getattr(sampler, "sampler_function", type(sampler))
    return f"{function.__name__} {getattr(sampler, 'extra_options', {})}"


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16] if tensors else ""


def model_identity(model: Any) -> dict[str, str]:
    """What tells two MODELs apart: the file it came from, and a digest of its LoRA keys and strengths."""
    factory = model.cached_patcher_init
    path = Path(factory[1][0]) if factory is not None else None
    file = f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" if path is not None and path.is_file() else "unknown"
    strengths = sorted((str(key), [patch[0] for patch in patches]) for key, patches in model.patches.items())
    return {"model": file, "loras": hashlib.sha256(repr(strengths).encode()).hexdigest()[:16]}
