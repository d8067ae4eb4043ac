"""Whether a video can be made on a server and how long that takes, from figures alone: nothing is uploaded and nothing runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import ImageOps

from ..comfyui.client import ComfyClient
from ..comfyui.machine import Machine, machine_of
from ..comfyui.speed import measured_here, stated
from ..models.files import by_name, select
from .graph import AUDIO_ENCODE, MODEL, PREPARE, SAMPLER, VAE, Prompt, Request, build_prompt, inputs_of
from .object_info import PromptError
from .picture import opened_picture
from .sound import seconds_of

try:
    from ...wan_s2v_model.audio.features import SHORTEST_SOUND_S
    from ...wan_s2v_model.conditioning.picture import AREAS, CUSTOM_SIZE, size_within_area
    from ...wan_s2v_model.conditioning.timeline import Timeline, plan_timeline
    from ...wan_s2v_model.constants import LIVE_FPS, LIVE_FRAMES_PER_CLIP, SAMPLE_RATE_HZ, VIDEO_FPS
    from ...wan_s2v_model.cost.cards import Modes
    from ...wan_s2v_model.cost.estimate import Estimate, Job, ModelFacts, Rates, estimate
    from ...wan_s2v_model.cost.outlook import loaded_model
    from ...wan_s2v_model.cost.requirements import DeviceFacts, refusal
    from ...wan_s2v_model.media.video_reader import VideoReader
    from ...wan_s2v_model.sampling.guidance import NO_OPTIONS, model_calls
    from ...wan_s2v_model.sampling.schedule import guided_steps
    from ...wan_s2v_model.time_text import rough_duration
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.audio.features import SHORTEST_SOUND_S
    from wan_s2v_model.conditioning.picture import AREAS, CUSTOM_SIZE, size_within_area
    from wan_s2v_model.conditioning.timeline import Timeline, plan_timeline
    from wan_s2v_model.constants import LIVE_FPS, LIVE_FRAMES_PER_CLIP, SAMPLE_RATE_HZ, VIDEO_FPS
    from wan_s2v_model.cost.cards import Modes
    from wan_s2v_model.cost.estimate import Estimate, Job, ModelFacts, Rates, estimate
    from wan_s2v_model.cost.outlook import loaded_model
    from wan_s2v_model.cost.requirements import DeviceFacts, refusal
    from wan_s2v_model.media.video_reader import VideoReader
    from wan_s2v_model.sampling.guidance import NO_OPTIONS, model_calls
    from wan_s2v_model.sampling.schedule import guided_steps
    from wan_s2v_model.time_text import rough_duration

GB = 1e9
EIGHT_BIT = "fp8"  # in a file's name
UNKNOWN = Rates(1, 1, 1)


@dataclass(frozen=True)
class Outlook:
    """What would be made, on what, and what it takes.

    Attributes:
        seconds: None on a card whose speed is not known here.
    """

    job: Job
    model: ModelFacts
    machine: Machine
    cost: Estimate
    seconds: float | None

    def lines(self) -> list[str]:
        job, timeline, machine, cost = self.job, self.job.timeline, self.machine, self.cost
        calls = f"{job.model_calls:.3g} model call{'s' * (job.model_calls > 1)}"
        memory = f"{_gb(cost.least_device_bytes)} of GPU memory at least, {_gb(cost.full_device_bytes)} for full speed; "
        host = f"{_gb(cost.host_bytes)} of RAM for full speed"
        time = "not known for this device; Prepare Video measures it" if self.seconds is None else rough_duration(self.seconds)
        clips = f"{timeline.num_clips} clip{'s' * (timeline.num_clips > 1)}"
        return [
            f"video: {timeline.seconds:.2f} s, {timeline.num_frames} frames of {job.width}x{job.height} in {clips}",
            f"work: {job.steps} steps of {calls} for each clip",
            f"machine: {machine.device}, {'' if machine.is_host else _gb(machine.device_bytes) + ', '}{_gb(machine.ram_bytes)} of RAM",
            f"needs: {host if machine.is_host else memory + host}",
            f"time: {time}" + ("" if self.seconds is None else " (calculated for one GPU), and loading the models"),
        ]

    def as_json(self) -> dict[str, Any]:
        timeline = self.job.timeline
        return {
            "video_seconds": timeline.seconds,
            "frames": timeline.num_frames,
            "clips": timeline.num_clips,
            "width": self.job.width,
            "height": self.job.height,
            "device": self.machine.device,
            "calculated_seconds": None if self.seconds is None else round(self.seconds),
        }


def look_ahead(client: ComfyClient, request: Request, *, is_here: bool = False) -> Outlook:
    """Everything that can be known before something is uploaded.

    Args:
        is_here: the server computes on this machine, whose GPU can be measured.
    Raises:
        PromptError: if a model file is missing, an option does not fit, or the memory clearly does not suffice.
    """
    prompt = build_prompt(request, client.object_info(), lambda path: path.name)
    machine = machine_of(client.system_stats())
    job = job_of(prompt, request)
    name = inputs_of(prompt, MODEL)["model_name"]
    model = model_facts(name, machine)
    modes = Modes(job.vae_value_bytes)
    rates = (measured_here(machine, modes) if is_here else None) or stated(machine, modes)
    device = DeviceFacts(machine.device, machine.device_bytes, machine.ram_bytes, rates or UNKNOWN, machine.is_host)
    reason = refusal(job, model, device) if by_name(name) else None  # the size of other files is not known here
    if reason is not None:
        raise PromptError(reason)
    cost = estimate(job, model, rates or UNKNOWN)
    return Outlook(job, model, machine, cost, cost.seconds if rates else None)


def job_of(prompt: Prompt, request: Request) -> Job:
    """What the sampler will have to do."""
    options = linked_inputs(prompt, SAMPLER, "options")
    height, width = size_of(prompt, request)
    steps = scales_of_steps(prompt)
    return Job(
        timeline_of(prompt, request),
        height,
        width,
        steps=len(steps),
        model_calls=sum(model_calls(*scales) for scales in steps) / len(steps),
        vae_value_bytes=4 if inputs_of(prompt, VAE)["dtype"] == "fp32" else 2,
        vae_warmup=options.get("vae_warmup", NO_OPTIONS.vae_warmup),
        conditionings=1 + any(cfg != 1 for cfg, _ in steps) + any(cfg != audio_cfg for cfg, audio_cfg in steps),
    )


def scales_of_steps(prompt: Prompt) -> list[tuple[float, float]]:
    """Guidance by the prompt and by the sound in each step; either may hold in a part of the steps alone."""
    sampler, options, audio = inputs_of(prompt, SAMPLER), *(linked_inputs(prompt, SAMPLER, name) for name in ("options", "audio_guidance"))
    steps, cfg = sampler["steps"], max(1.0, sampler["cfg"])
    guided = guided_steps(steps, options.get("cfg_start_percent", 0.0), options.get("cfg_end_percent", 1.0))
    heard, audio_cfg = guided, cfg
    if audio:
        heard, audio_cfg = guided_steps(steps, audio["start_percent"], audio["end_percent"]), max(1.0, audio["audio_cfg"])
    return [(cfg if step in guided else 1.0, audio_cfg if step in heard else 1.0) for step in range(steps)]


def linked_inputs(prompt: Prompt, node_type: str, name: str) -> dict[str, Any]:
    """The inputs of the node behind an input; none where nothing is connected."""
    link = inputs_of(prompt, node_type).get(name)
    return {} if link is None else prompt[link[0]]["inputs"]


def timeline_of(prompt: Prompt, request: Request) -> Timeline:
    """The clips of what is played: the chosen part of the longest sound, or a track that is played whole."""
    part, plan = inputs_of(prompt, AUDIO_ENCODE), inputs_of(prompt, PREPARE)
    if request.played is not None:
        seconds = seconds_of(request.played)
    else:
        seconds = max(seconds_of_part(sound, part) for sound in dict.fromkeys(request.sounds))
    samples = round(seconds * SAMPLE_RATE_HZ)
    options, fps = {name: plan[name] for name in ("sync_mode", "frames_per_clip", "max_clips")}, int(part.get("frame_rate", VIDEO_FPS))
    if fps == LIVE_FPS:
        options["frames_per_clip"] = LIVE_FRAMES_PER_CLIP
    return plan_timeline(samples, SAMPLE_RATE_HZ, samples, free_start=plan["first_frame"] == "free", fps=fps, **options)


def seconds_of_part(sound: Path, part: dict[str, Any]) -> float:
    """How much of a sound is chosen."""
    whole = seconds_of(sound)
    rest = whole - part["start"]
    if rest <= 0 < whole:
        raise PromptError(f"{sound.name} ends before {part['start']:g} s. Choose an earlier --start.")
    seconds = min(part["duration"] or rest, rest)
    if seconds < SHORTEST_SOUND_S:
        raise PromptError(
            f"The selected sound lasts {max(0.0, seconds):.3f} s in {sound.name}, and at least {SHORTEST_SOUND_S} s is needed. Set "
            "--duration to 0 or to a larger number, or give a longer sound."
        )
    return seconds


def size_of(prompt: Prompt, request: Request) -> tuple[int, int]:
    """Height and width of the video, as Prepare Video will choose them; of a dub as if all of its picture was worked on."""
    plan = inputs_of(prompt, PREPARE)
    if plan["size"] == CUSTOM_SIZE:
        return plan["size.height"], plan["size.width"]
    height, width = sides_of_picture(request.image) if request.image is not None else sides_of_video(request.video)
    return size_within_area(height, width, AREAS[plan["size"]])


def sides_of_picture(picture: Path) -> tuple[int, int]:
    """Height and width in pixels."""
    with opened_picture(picture) as image:
        width, height = ImageOps.exif_transpose(image).size
    return height, width


def sides_of_video(video: Path | None) -> tuple[int, int]:
    """Height and width in pixels, as it is displayed."""
    try:
        with VideoReader(str(video)) as reader:
            height, width = reader.read_levels([0]).shape[1:3]
    except ValueError as error:
        raise PromptError(f"{video}: {error}") from error
    return height, width


def model_facts(name: str, machine: Machine) -> ModelFacts:
    """The transformer, from the name of its file; one that is not published is taken to be as large as those that are."""
    file = by_name(name) or select("comfy", EIGHT_BIT if EIGHT_BIT in name.lower() else "bf16", ("model",))[0]
    return loaded_model(file.gigabytes * GB, is_host=machine.is_host)


def _gb(size: float) -> str:
    return f"{size / GB:.0f} GB" if size >= 10 * GB else f"{size / GB:.1f} GB"
