"""What decides the result of a run, by hash: the manifest of the run folder holds it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..conditioning.clip import ALL_STEPS
from ..conditioning.dub import SourceVideo
from ..conditioning.plan import AS_REFERENCE, Plan
from ..conditioning.prompts import PROMPT_KEY, conditioning_of_clip, prompt_weights
from ..constants import MOTION_LATENTS, VIDEO_FPS
from ..origin import digest, identity_of
from ..sampling.live_clips import LiveJob
from ..untrusted import open_plain
from .changes import spans_of
from .identity import attachments, model_identity, tensors_of, vae_identity
from .manifest import FRAME_RATE, Fingerprint, Spans
from .stable_text import stable_text, without_addresses

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
    "step_cache": "",
    FRAME_RATE: VIDEO_FPS,
    "speakers": "",
    "source_video": "",
    "source_mask": "",
    "dub": "",
    "dub_strength": 1.0,
}
NOT_RECORDED_EARLIER = ("vae", "model_nodes")
READ_BYTES = 2**22  # of a file at once
OF_THE_ENCODER = {PROMPT_KEY, "pooled_output", "attention_mask"}  # go with the embedding


def run_fingerprint(model: Any, positive: list, negative: list, plan: Plan, settings: Any, seed: int, vae: Any) -> Fingerprint:
    """Everything that decides the result, for the manifest of the run."""
    return {
        **_of_inputs(model, positive, plan, seed, vae),
        "negative_prompt": text_of(negative),
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
        "audio_history": "real" if plan.real_audio_history else "first frame",
        "audio_guidance": _audio_guidance(settings),
        "audio_strength": 1.0 if settings.audio is None else settings.audio.strength,
        "pose_start": plan.pose_steps[0],
        "pose_end": plan.pose_steps[1],
        "step_cache": _step_cache(settings.step_cache),
    }


def live_fingerprint(model: Any, positive: list, job: LiveJob, vae: Any, *, float8_rings: bool) -> Fingerprint:
    """The same of a live video."""
    return {
        **_of_inputs(model, positive, job.plan, job.seed, vae),
        "mode": "live",
        "steps": job.steps,
        "anchor": job.anchor,
        "restart_clips": job.restart_clips,
        "rings": "float8" if float8_rings else "",
    }


def _of_inputs(model: Any, positive: list, plan: Plan, seed: int, vae: Any) -> Fingerprint:
    """What decides every video, however it is sampled."""
    timeline = plan.timeline
    return {
        **model_identity(model),
        "model_nodes": attachments(model),
        "vae": vae_identity(vae),
        "prompt": text_of(positive),
        "audio": identity_of(plan.audio_features, plan.waveform),
        "picture": identity_of(plan.ref_latents),
        "pose": identity_of(*(plan.pose_latents or ())),
        "previous_frames": identity_of(*(() if plan.history is None else (plan.history,))),
        "width": plan.width,
        "height": plan.height,
        "frames_per_clip": timeline.frames_per_clip,
        "clips": timeline.num_clips,
        "sync_mode": timeline.sync_mode,
        "seed": seed,
        "silence": silence_of(plan),
        FRAME_RATE: timeline.fps,
        "speakers": speakers_of(plan),
        **_dub(plan),
    }


def hashes_by_clip(positive: list, negative: list, plan: Plan) -> dict[str, Spans]:
    """Of the inputs that may change from clip to clip: by the name in the fingerprint what each clip is told, by hash."""
    num_clips = plan.timeline.num_clips
    poses = {id(latents): identity_of(latents) for latents in plan.pose_latents or ()}  # a pose that is held fills clip after clip
    return {
        "prompt": spans_of(_texts_by_clip(positive, num_clips)),
        "negative_prompt": spans_of(_texts_by_clip(negative, num_clips)),
        "pose": spans_of([poses[id(latents)] for latents in plan.pose_latents or ()]),
    }


def _texts_by_clip(conditioning: list, num_clips: int) -> list[str]:
    prompts = list(dict.fromkeys(options[PROMPT_KEY] for _, options in conditioning if PROMPT_KEY in options))
    weights = [tuple(prompt_weights(prompts, clip)) for clip in range(num_clips)]
    first = {weight: clip for clip, weight in reversed(list(enumerate(weights)))}
    texts = {weight: text_of(conditioning_of_clip(conditioning, clip)) for weight, clip in first.items()}
    return [texts[weight] for weight in weights]


def assumed_in_older_runs(fingerprint: Fingerprint) -> Fingerprint:
    """What counts for a run whose manifest lacks a name, because the version of the pack that made it did not know the name yet."""
    return {**ADDED_LATER, **{name: fingerprint[name] for name in NOT_RECORDED_EARLIER}}


def text_of(conditioning: list, digest_of: Callable[..., str] = identity_of) -> str:
    """The embeddings, and the clips from which scheduled ones hold."""
    prompts = [options[PROMPT_KEY] for _, options in conditioning if PROMPT_KEY in options]
    starts = (f"clip {prompt.start_clip} blend {prompt.blend_clips}" for prompt in prompts)
    return " ".join((digest_of(*(item[0] for item in conditioning)), *starts, *_settings_of_texts(conditioning)))


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
    tensors = [tensor for key in sorted(weights, key=str) for tensor in tensors_of(getattr(weights[key], "weights", weights[key]))]
    return f"{type(hook).__name__} {strengths} {keyframes} {digest(*tensors)}"


def silence_of(plan: Plan, digest_of: Callable[..., str] = identity_of) -> str:
    """What is heard in pauses and past the end, and which frames are pauses."""
    silence = plan.silence
    if silence is None:
        return ""
    return digest_of(silence.features, torch.tensor(sorted(map(float, silence.pauses))))


def _audio_guidance(settings: Any) -> str:
    """Empty where prompt and sound are guided together, as in runs from before they could be guided apart."""
    audio = settings.audio
    if audio is None or (audio.cfg, audio.start, audio.end) == (settings.cfg, settings.cfg_start, settings.cfg_end):
        return ""
    return f"{audio.cfg} from {audio.start} to {audio.end}"


def speakers_of(plan: Plan, digest_of: Callable[..., str] = identity_of) -> str:
    """Who is heard when and where; empty where all hear the one sound."""
    speakers, regions = plan.speakers, plan.regions
    if speakers is None or regions is None:
        return ""
    sounds = [speaker.sound for speaker in speakers.speakers]
    features = digest_of(speakers.silence, *(sound.features for sound in sounds if sound is not None))
    pauses = [sorted(sound.silence.pauses) if sound and sound.silence else [] for sound in sounds]
    starts = [None if sound is None else speaker.start for speaker, sound in zip(speakers.speakers, sounds, strict=True)]
    turns = [(turn.start_s, sorted(turn.speakers)) for turn in speakers.turns]
    numbers = [speaker.number for speaker in speakers.speakers] if turns else []
    times = stable_text((starts, pauses, numbers, turns, regions.nobody, regions.is_hard, regions.mask_fps))
    return f"{features} {digest_of(regions.shares)} {times}"


def _step_cache(cache: Any) -> str:
    return "" if cache is None else f"error up to {cache.allowed_error}, first compared behind {cache.check_every} clips"


def _dub(plan: Plan) -> Fingerprint:
    """The source by its content."""
    if plan.dub is None:
        return {name: ADDED_LATER[name] for name in ("source_video", "source_mask", "dub", "dub_strength")}
    dub = plan.dub.dub
    return {"source_video": _content(dub.video), "source_mask": digest(dub.mask), "dub": dub.settings, "dub_strength": dub.strength}


def _content(video: SourceVideo) -> str:
    """The bytes of its file, with the part that is used, or its pictures."""
    if video.file is None:
        return f"{digest(video.read_levels(range(len(video.times))))} at {video.fps} fps"
    source, start_s, length_s = video.file
    hashed = hashlib.sha256()
    with open_plain(Path(source), through_links=True) if isinstance(source, str) else nullcontext(BytesIO(source.getbuffer())) as file:
        for block in iter(lambda: file.read(READ_BYTES), b""):
            hashed.update(block)
    return f"{hashed.hexdigest()[:16]} from {float(start_s)} s, {float(length_s)} s"


def _sampler_name(sampler: Any) -> str:
    """All of ComfyUI's SAMPLERs are of one class; they differ by their function and its options."""
    function = getattr(sampler, "sampler_function", type(sampler))
    options = {name: stable_text(value) if callable(value) else value for name, value in getattr(sampler, "extra_options", {}).items()}
    return without_addresses(f"{getattr(function, '__name__', function)} {options}")
