"""Which model it is, and of what an encoding was made: by content and not by place, time or device."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..audio.features import EncodedAudio
from ..checkpoints.file_format import INDEX_SUFFIX, LENGTH_BYTES, LONGEST_HEADER
from ..checkpoints.shards import shard_files
from ..conditioning.plan import Plan
from ..constants import MOTION_FRAMES
from ..media.audio_input import Sound
from ..origin import digest, made_of, origin_of
from ..untrusted import open_plain, read_json
from .stable_text import BLOCK, blocks, sample, stable_text, without_addresses

CACHE_SETTINGS = ("name", "reuse_threshold", "start_percent", "end_percent")  # of core's EasyCache, whose other values are its state
OF_DEVICES = ("multigpu_options", "multigpu_clones")  # where core divides the work on several GPUs
MULTIGPU = "multigpu"
ATTACHED = ("wrappers", "callbacks", "attachments", "injections", "object_patches", "weight_wrapper_patches")
UNSAMPLED = 2**26  # bytes up to which a file of an unknown format is read whole
NUM_STRIDES = 4096


def model_identity(model: Any) -> dict[str, str]:
    """What tells two MODELs apart: their weights and the options they were loaded with, and their LoRAs by strength and content."""
    path = model_file(model)
    if path is not None:
        options = tuple(filter(_is_no_place, map(_without_places, model.cached_patcher_init[1][1:])))
        weights = f"{content_of(path)} {without_addresses(str(options))}"
    else:
        originals = {name: backup.weight for name, backup in getattr(model, "backup", {}).items()}
        weights = f"weights {sample(model.model, originals)}"
    return {"model": weights, "loras": _loras(model)}


def model_file(model: Any) -> Path | None:
    """The file that a MODEL was loaded from, where its loader says so and it is still there."""
    factory = model.cached_patcher_init
    source = factory[1][0] if factory is not None and factory[1] else None
    return Path(source) if isinstance(source, str | Path) and Path(source).is_file() else None


def vae_identity(vae: Any) -> str:
    """File and type of a VAE; where its loader does not name the file, a sample of the weights, which ComfyUI keeps as suits the GPU."""
    patcher = getattr(vae, "patcher", None)
    if patcher is not None and model_file(patcher) is not None:
        return model_identity(patcher)["model"]
    return f"{vae.vae_dtype} {sample(vae.first_stage_model)}"


def note_text(conditioning: list, clip: Any, text: str) -> list:
    """Note of which text and text encoder a CONDITIONING was made."""
    settings = f"{getattr(clip, 'layer_idx', None)} {getattr(clip, 'tokenizer_options', None)} {attachments(clip.patcher)}"
    origin = f"text {text!r} by {model_identity(clip.patcher)} {settings}"
    for tensor, _ in conditioning:
        made_of(tensor, origin)
    return conditioning


def note_sound(encoded: EncodedAudio, encoder: Any, sounds: tuple[Sound, Sound], settings: str) -> EncodedAudio:
    """Note of which sound, audio encoder and settings it was made.

    Args:
        sounds: what is played and what is heard, before anything is computed with them.
    """
    samples = " ".join(f"{digest(sound.waveform)} {sound.sample_rate_hz}" for sound in sounds)
    origin = f"sound {samples} {settings} by {_encoder(encoder)}"
    for tensor in (encoded.features, encoded.waveform, *(() if encoded.silence is None else (encoded.silence.features,))):
        made_of(tensor, origin)
    return encoded


def note_rest(silence: torch.Tensor, encoder: Any) -> torch.Tensor:
    """Note by which audio encoder silence was heard."""
    return made_of(silence, f"rest by {_encoder(encoder)}")


def _encoder(encoder: Any) -> str:
    return f"{content_of(encoder.file)} {encoder.dtype}"


def note_pictures(plan: Plan, vae: Any, picture: torch.Tensor, previous: torch.Tensor | None, start: str) -> Plan:
    """Note of which pictures, as they were given, and by which VAE a plan was made.

    Args:
        picture: the one that is used. previous: the frames to go on from. start: how the video starts.
    """
    encoder = f"by {vae_identity(vae)}"
    origin = f"picture {digest(picture)} {plan.width}x{plan.height} {plan.timeline.sync_mode}"
    made_of(plan.ref_latents, f"{origin} {encoder}")
    if plan.history is not None:
        made_of(plan.history, f"{origin} {start} {'' if previous is None else digest(previous[-MOTION_FRAMES:])}")
    for latents in {id(latents): latents for latents in plan.pose_latents or ()}.values():
        made_of(latents, f"{origin_of(latents)} {plan.width}x{plan.height} {encoder}")
    return plan


def content_of(path: Path) -> str:
    """Size in bytes of a weights file, and a hash of its header and of a sample of every tensor; of a model in shards of all of them.

    Another file of the same size that differs in one large tensor, and there outside of the sampled blocks, is taken for the same.
    """
    hashed, size = hashlib.sha256(), 0
    for file in shard_files(path) if path.name.endswith(INDEX_SUFFIX) else [path]:
        size += file.stat().st_size
        for block in _sampled_blocks(file):
            hashed.update(block)
    return f"content {size} {hashed.hexdigest()[:16]}"


def _sampled_blocks(path: Path) -> Iterator[bytes]:
    with open_plain(path, through_links=True) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = file.read(length) if 0 < length <= min(LONGEST_HEADER, size) else b""
        yield header
        for start, end in _tensor_blocks(header, size) or _strides(size):
            file.seek(start)
            yield file.read(end - start)


def _tensor_blocks(header: bytes, size: int) -> list[tuple[int, int]]:
    """Begin and end of each sampled part of a safetensors file of so many bytes; none for other files."""
    try:
        places = sorted(entry["data_offsets"] for name, entry in read_json(header).items() if name != "__metadata__")
        data = LENGTH_BYTES + len(header)
        if not all(type(first) is type(last) is int and 0 <= first <= last <= size - data for first, last in places):
            return []
        return [(data + first + start, data + first + end) for first, last in places for start, end in blocks(last - first)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def _strides(size: int) -> list[tuple[int, int]]:
    if size <= UNSAMPLED:
        return [(0, size)]
    starts = [(size - BLOCK) * index // (NUM_STRIDES - 1) for index in range(NUM_STRIDES)]
    return [(start, start + BLOCK) for start in starts]


def _is_no_place(value: Any) -> bool:
    return not (isinstance(value, Path | torch.device) or (isinstance(value, str) and ("/" in value or "\\" in value)))


def _without_places(value: Any) -> Any:
    """Options of a loader without folders and devices."""
    if isinstance(value, Mapping):
        return {name: _without_places(item) for name, item in value.items() if _is_no_place(item)}
    return [_without_places(item) for item in value if _is_no_place(item)] if isinstance(value, list | tuple) else value


def _loras(model: Any) -> str:
    hashed = hashlib.sha256()
    for key, patches in sorted(model.patches.items(), key=lambda item: str(item[0])):
        for strength, weights, *rest in patches:
            kind = type(weights).__name__
            content = getattr(weights, "weights", weights)
            hashed.update(f"{key} {strength} {kind} {_texts(content)} {digest(*tensors_of(content))} {stable_text(rest)}".encode())
    return hashed.hexdigest()[:16]


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors and scales of a LoRA patch, which ComfyUI keeps in tuples of its own making."""
    if isinstance(value, torch.Tensor | float | int):  # a number is the alpha of an adapter
        return [torch.as_tensor(value)]
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, tuple | list) else []


def _texts(value: Any) -> str:
    """What is done with them: diff, set and others."""
    if isinstance(value, tuple | list):
        return " ".join(filter(None, map(_texts, value)))
    return value if isinstance(value, str) else ""


def attachments(model: Any) -> str:
    """Everything that other nodes have put on the MODEL, but for core's division of the work on several GPUs."""
    options = {name: value for name, value in model.model_options.items() if name not in OF_DEVICES}
    transformer = dict(options.pop("transformer_options", {}))
    cache = {name: value for name, value in vars(transformer.pop("easycache", object)).items() if name in CACHE_SETTINGS}
    others = getattr(model, "additional_models", {}).items()
    parts = {
        "options": options,
        "transformer_options": {name: value for name, value in transformer.items() if name not in OF_DEVICES},
        "cache": cache,
        **{name: getattr(model, name, {}) for name in ATTACHED},
        "models": {key: [model_identity(other) for other in models] for key, models in others if key != MULTIGPU},
    }
    told = {name: filled for name, part in parts.items() if (filled := _filled(part))}
    return stable_text(told) if told else ""


def _filled(value: Any) -> Any:
    """A mapping without entries that hold nothing."""
    if not isinstance(value, Mapping):
        return value
    return {key: filled for key, item in value.items() if (filled := _filled(item)) not in ({}, [], None)}
