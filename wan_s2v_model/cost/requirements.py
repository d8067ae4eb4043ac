"""What a job needs against what the device has: lines for the preview and the log, and refusals with advice."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..conditioning.picture import size_within_area
from ..constants import TEMPORAL_STRIDE
from ..time_text import rough_duration
from .estimate import FLOAT32_BYTES, Estimate, Job, ModelFacts, Rates, estimate, num_parameters
from .outlook import DRAFT, WAYS

logger = logging.getLogger("wan_s2v")

REFUSED_SHARE = 0.8  # of what is needed must be there; trying in vain costs less than a wrong refusal
TRY_ANYWAY = "WAN_S2V_TRY_ANYWAY"  # environment variable: with any value nothing is refused for its memory, only warned of
IMAGE_SHARE = 0.8  # of the free main memory that one IMAGE may take
EIGHT_BIT = 1.5  # bytes per weight below which a file counts as fp8; some of its layers have more bits
SIXTEEN_BIT = 2


@dataclass(frozen=True)
class DeviceFacts:
    """What samples, and what can be had there.

    Attributes:
        free_bytes: including what other models can be made to leave. host_free_bytes: main memory.
        is_host: computes in main memory.
        is_measured: `free_bytes` was asked of the device; else ComfyUI has put a figure in its place, on which nothing is refused.
    """

    name: str
    free_bytes: float
    host_free_bytes: float
    rates: Rates
    is_host: bool = False
    is_measured: bool = True


@dataclass(frozen=True)
class Shortage:
    """A kind of memory of which there is too little; `of_frames`: for frames alone, whatever the model; `is_measured`: as of the device."""

    kind: str
    needed_bytes: float
    free_bytes: float
    of_frames: bool = False
    is_measured: bool = True


def shortage(cost: Estimate, model: ModelFacts, device: DeviceFacts, share: float = 1.0) -> Shortage | None:
    """The memory that cannot hold `share` of what a job needs, None if there is none.

    Weights that are in main memory already take no more of it. If they cannot be read from the file again, main memory has to hold
    those that do not fit on the GPU.
    """
    host_free = device.host_free_bytes + model.held_bytes
    if device.is_host:
        kinds = [Shortage("main memory", cost.least_device_bytes + cost.clip_host_bytes, host_free)]
    else:
        stays_behind = 0.0
        if device.is_measured and not (model.is_file_backed or model.is_resident):
            stays_behind = model.copies * max(0.0, model.weights_bytes + cost.least_device_bytes - device.free_bytes)
        kinds = [
            Shortage(f"GPU memory on {device.name}", cost.least_device_bytes, device.free_bytes, is_measured=device.is_measured),
            Shortage("main memory", cost.clip_host_bytes + stays_behind, host_free, of_frames=not stays_behind),
        ]
    short = [kind for kind in kinds if share * kind.needed_bytes > kind.free_bytes]
    return min(short, key=lambda kind: not kind.is_measured, default=None)


def refusal(job: Job, model: ModelFacts, device: DeviceFacts) -> str | None:
    """Why a job clearly cannot run, and what helps; None if it may."""
    short = shortage(estimate(job, model, device.rates), model, device, REFUSED_SHARE)
    return None if short is None else _reason(short, job, model, device)


def _reason(short: Shortage, job: Job, model: ModelFacts, device: DeviceFacts) -> str:
    return (
        f"{job.width}x{job.height} with {job.timeline.frames_per_clip} frames per clip needs at least {gigabytes(short.needed_bytes)} of "
        f"{short.kind}, but only {gigabytes(short.free_bytes)} can be had. "
        f"What helps, best first: {'; '.join(_advice(job, model, device, short))}."
    )


def require_fit(job: Job, model: ModelFacts, device: DeviceFacts) -> None:
    """Log what a job costs; warn if it seems not to fit, and the figures are not sure or the user wants to try.

    Raises:
        ValueError: it clearly does not fit.
    """
    logger.info("estimate: %s", describe_job(job, model, device))
    short = shortage(estimate(job, model, device.rates), model, device, REFUSED_SHARE)
    if short is None:
        return
    refuse(_reason(short, job, model, device), is_measured=short.is_measured)


def refuse(reason: str, *, is_measured: bool) -> None:
    """Raise ValueError with the reason; only warn where the figures are not sure, or the user wants to try."""
    if not is_measured:
        logger.warning("%s But ComfyUI cannot measure the memory of this device, so it is tried.", reason)
    elif os.environ.get(TRY_ANYWAY):
        logger.warning("%s It is tried all the same, as %s is set.", reason, TRY_ANYWAY)
    else:
        raise ValueError(f"{reason} If that is wrong, start ComfyUI with {TRY_ANYWAY}=1 in its environment.")


def require_image_memory(shape: Sequence[int], free_bytes: float, advice: str, value_bytes: int = FLOAT32_BYTES) -> None:
    """Check that an IMAGE fits into main memory before it is made.

    Args:
        shape: [T, H, W, C]. free_bytes: of main memory. advice: what helps, the end of the message. value_bytes: size of a value.
    Raises:
        MemoryError: it would take more than its share of what is free.
    """
    needed = math.prod(shape) * value_bytes
    if needed > IMAGE_SHARE * free_bytes:
        raise MemoryError(
            f"{shape[0]} frames of {shape[2]}x{shape[1]} need {gigabytes(needed)} as IMAGE, "
            f"but only {gigabytes(free_bytes)} of memory are free. {advice}"
        )


def describe_job(job: Job, model: ModelFacts, device: DeviceFacts) -> str:
    """One line for the log: the clips that are left, the time they take and the memory."""
    cost = estimate(job, model, device.rates)
    num_clips = job.timeline.num_clips - job.first_clip
    what = f"{num_clips} clip{'s' * (num_clips > 1)} of {job.width}x{job.height}, {cost.tokens:,} tokens"
    work = f"{job.steps} steps of {job.model_calls:.3g} model call{'s' * (job.model_calls > 1)}"
    time = f"{rough_duration(cost.seconds)} on {device.name}"
    return "; ".join([f"{what}, {work}: {time}", *_memory(cost, model, device), f"disk: {gigabytes(job.disk_bytes)}"])


def describe_shape(job: Job, model: ModelFacts, device: DeviceFacts) -> str:
    """What a video will really be, for the node: 512x512, 7 clips, 30.00 s, and how long it will take."""
    clips = f"{job.timeline.num_clips} clip{'s' * (job.timeline.num_clips > 1)}"
    return f"{job.width}x{job.height}, {clips}, {job.timeline.seconds:.2f} s\n{_times(job, model, device)}"


def describe_plan(job: Job, model: ModelFacts, device: DeviceFacts, gpus: str = "") -> list[str]:
    """Lines for the preview picture: what will be made, and what it costs with a model that is not known yet.

    Args:
        gpus: what several GPUs do, in words.
    """
    timeline, cost = job.timeline, estimate(job, model, device.rates)
    size = f"{job.width} x {job.height}   {timeline.num_frames} frames   {timeline.seconds:.2f} s"
    petaflop = (cost.linear_flop + cost.attention_flop) / 1e15
    lines = [
        f"{size}   {timeline.num_clips} clips of {timeline.frames_per_clip}",
        f"sync: {timeline.sync_mode}   {cost.tokens:,} tokens   {petaflop:.2f} PFLOP per model call",
        f"time: {_times(job, model, device)}",
        *([f"GPUs: {gpus}"] if gpus else []),
        *_memory(cost, model, device),
        f"assumed: 14B model in {8 * model.value_bytes} bits; {DRAFT.steps} steps: with the LoRA for few steps, without guidance",
    ]
    short = shortage(cost, model, device, REFUSED_SHARE)
    if short is not None and short.is_measured:
        lines.append(f"too large: {next(_advice(job, model, device, short))} would help")
    last = timeline.clip_frames(timeline.num_clips - 1)
    if timeline.num_clips > 1 and last < timeline.frames_per_clip // 4:
        lines.append(f"the last clip shows only {last} frames: {last / timeline.fps:.2f} s less sound saves one clip")
    return lines


def _times(job: Job, model: ModelFacts, device: DeviceFacts) -> str:
    """How long a plan takes both ways, as it is not known yet which sampler will get it."""
    ways = (f"{rough_duration(estimate(way.of(job), model, device.rates).seconds)} at {way.steps} steps" for way in reversed(WAYS))
    return f"{', '.join(ways)}, on {device.name}"


def _memory(cost: Estimate, model: ModelFacts, device: DeviceFacts) -> list[str]:
    host_free = gigabytes(device.host_free_bytes + model.held_bytes)
    if device.is_host:
        return [f"RAM: {gigabytes(cost.least_device_bytes + cost.clip_host_bytes)}, {host_free} free"]
    least, full = gigabytes(cost.least_device_bytes), gigabytes(cost.full_device_bytes)
    free = gigabytes(device.free_bytes) if device.is_measured else "nobody knows how much"
    return [
        f"GPU memory: {least} at least, {full} for full speed, {free} free",
        f"RAM: {gigabytes(cost.host_bytes)} for full speed, {host_free} free",
    ]


def _advice(job: Job, model: ModelFacts, device: DeviceFacts, short: Shortage) -> Iterator[str]:
    smaller = next((trial for trial in _smaller_sizes(job) if _fits(trial, model, device)), None)
    if smaller is not None:
        yield f"a size of {smaller.width}x{smaller.height} or less"
    shorter = next((trial for trial in _shorter_clips(job) if _fits(trial, model, device)), None)
    if shorter is not None:
        yield f"{shorter.timeline.frames_per_clip} frames per clip or fewer"
    if not short.of_frames:
        yield from _advice_for_the_model(model, device)
    yield "other programs closed"


def _advice_for_the_model(model: ModelFacts, device: DeviceFacts) -> Iterator[str]:
    if model.weights_bytes > EIGHT_BIT * num_parameters(model.config):
        yield "an fp8 model file"
    if model.residual_bytes > SIXTEEN_BIT:
        yield "precision fast in Load Wan S2V Model"
    if model.is_resident and not device.is_host:
        yield "offload switched on in Load Wan S2V Model, and ComfyUI started without --highvram and --gpu-only"


def _fits(job: Job, model: ModelFacts, device: DeviceFacts) -> bool:
    return shortage(estimate(job, model, device.rates), model, device) is None


def _smaller_sizes(job: Job) -> Iterator[Job]:
    """The job with 95, 90, ... 5 % of its area."""
    for percent in range(95, 0, -5):
        height, width = size_within_area(job.height, job.width, job.height * job.width * percent // 100)
        yield replace(job, height=height, width=width)


def _shorter_clips(job: Job) -> Iterator[Job]:
    frames_per_clip = job.timeline.frames_per_clip
    for shorter in range(frames_per_clip - TEMPORAL_STRIDE, 0, -TEMPORAL_STRIDE):
        yield replace(job, timeline=replace(job.timeline, frames_per_clip=shorter))


def gigabytes(size: float) -> str:
    if size < 0.1e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.0f} GB" if size >= 20e9 else f"{size / 1e9:.1f} GB"
