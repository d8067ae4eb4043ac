"""What a live video costs, and where its rings find room: known before anything is sampled."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..conditioning.picture import size_within_area
from ..conditioning.timeline import Timeline
from ..constants import LIVE_FPS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..time_text import rough_duration
from ..transformer.causal import BLOCK_LATENTS, WINDOW_LATENTS, kept_bytes
from ..transformer.rings import Placement
from .estimate import (
    STREAMED_BLOCKS,
    VAE_DECODE_FLOP,
    WORKSPACE_BYTES,
    ModelFacts,
    Rates,
    activation_bytes,
    model_flop,
    num_parameters,
    num_tokens,
    streamed_weights,
    weights_of_step,
)
from .requirements import EIGHT_BIT, REFUSED_SHARE, DeviceFacts, gigabytes, refuse
from .vae_memory import DECODE

logger = logging.getLogger("wan_s2v")
LINK_BYTES_PER_S = 25e9  # from main memory, as PCIe 4.0 reaches with 16 lanes; a H200 (PCIe 5.0) reached 30 to 50 GB/s
TILED_DECODE = 0.25  # of the memory of the decoder is left where it works in tiles
DTYPES = {2: torch.bfloat16, 4: torch.float32}  # by the size of a value
BLOCK_FRAMES = TEMPORAL_STRIDE * BLOCK_LATENTS


@dataclass(frozen=True)
class LiveWork:
    """What is to be sampled.

    Attributes:
        height, width: pixels. steps: of each block. blocks: still to be made. played_back: blocks that only the network sees, again.
        float8: rings in float8. vae_value_bytes: size of a value of the VAE.
        dealt: how many steps each GPU has, that of the VAE first; all on one where it is empty.
    """

    height: int
    width: int
    steps: int
    blocks: int
    played_back: int = 0
    float8: bool = False
    vae_value_bytes: int = 2
    dealt: tuple[int, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """In latents."""
        return self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    @property
    def steps_of_gpus(self) -> tuple[int, ...]:
        return self.dealt or (self.steps,)


class LiveCost(NamedTuple):
    """What it costs with the rings in one place.

    Attributes:
        least_bytes: GPU memory with which it runs at all, weights streaming. full_bytes: with which no step fetches weights.
        host_bytes: main memory for the rings. fetched_bytes: from there for a step, its ring and weights that find no room on the GPU.
        block_s: seconds for a block of 12 frames. playback_s: for one that is played back.
        With several GPUs the memory is that of one with the most steps.
    """

    least_bytes: float
    full_bytes: float
    host_bytes: float
    fetched_bytes: float
    block_s: float
    playback_s: float


def live_cost(work: LiveWork, placement: Placement, model: ModelFacts, device: DeviceFacts) -> LiveCost:
    """Memory and time of a live video."""
    height, width = work.size
    tokens = BLOCK_LATENTS * (height // 2) * (width // 2)
    dtype, steps = DTYPES[model.value_bytes], work.steps_of_gpus
    kept, _ = kept_bytes(model.config, work.size, max(steps), placement, dtype)
    _, on_host = kept_bytes(model.config, work.size, work.steps, placement, dtype)
    working = kept + activation_bytes(tokens, model) + WORKSPACE_BYTES
    decode = DECODE.video * work.vae_value_bytes * work.height * work.width
    all_weights, streamed = weights_of_step(model), streamed_weights(model, STREAMED_BLOCKS)
    full_bytes = working + decode + all_weights
    stays = model.is_resident or device.is_host
    fetched_bytes = on_host / work.steps + (0 if stays else min(all_weights, max(0.0, full_bytes - device.free_bytes)))
    step_s = max(_step_seconds(work, model, device.rates), fetched_bytes / LINK_BYTES_PER_S)
    decode_s = VAE_DECODE_FLOP * BLOCK_LATENTS * work.height * work.width / device.rates.vae
    return LiveCost(
        least_bytes=working + TILED_DECODE * decode + (all_weights if model.is_resident else min(all_weights, streamed)),
        full_bytes=full_bytes,
        host_bytes=on_host,
        fetched_bytes=fetched_bytes,
        block_s=max(steps[0] * step_s + decode_s, max(steps) * step_s),
        playback_s=max(steps) * step_s,
    )


class Choice(NamedTuple):
    """Where the rings go and what the video then costs; `fits`: whether it is tried, as an estimate errs."""

    placement: Placement
    cost: LiveCost
    fits: bool


def choose_placement(work: LiveWork, model: ModelFacts, device: DeviceFacts) -> Placement:
    """Where the rings go: on the GPU or in main memory, wherever a step then has less to fetch. Says what it costs.

    Raises:
        ValueError: they fit nowhere.
    """
    choice = _choose(work, model, device)
    what = f"live video of {work.width}x{work.height}, {_blocks(work)}"
    logger.info("estimate: %s", "; ".join([f"{what}: {_time(work, choice, device)}", *_memory(choice, device)]))
    if not choice.fits:
        refuse(_reason(work, choice.cost.least_bytes, model, device), is_measured=device.is_measured)
    return choice.placement


def describe_live_plan(timeline: Timeline, work: LiveWork, model: ModelFacts, device: DeviceFacts, gpus: str = "") -> list[str]:
    """Lines for the preview picture, as of `describe_plan`; gpus: what several do."""
    choice, with_a_name = _choose(work, model, device), ", with a run_name" if work.played_back else ""
    gpus = f"   {gpus}" if gpus else ""
    size = f"{work.width} x {work.height}   {timeline.num_frames} frames   {timeline.seconds:.2f} s"
    lines = [
        f"{size}   {timeline.num_clips} clips of {timeline.frames_per_clip}",
        f"live: {_blocks(work)}{gpus}",
        f"time: {_time(work, choice, device)}",
        *_memory(choice, device),
        f"assumed: 14B model in {8 * model.value_bytes} bits with Live-Avatar's LoRA, in Sample Video Live as it comes{with_a_name}",
    ]
    return lines if choice.fits else [*lines, f"too large: {next(_advice(work, model, device))} would help"]


def describe_live_shape(timeline: Timeline, work: LiveWork, model: ModelFacts, device: DeviceFacts) -> str:
    """The same in two lines, as of `describe_shape`."""
    clips = f"{timeline.num_clips} clip{'s' * (timeline.num_clips > 1)}"
    return f"{work.width}x{work.height}, {clips}, {timeline.seconds:.2f} s\n{_time(work, _choose(work, model, device), device)}"


def _choose(work: LiveWork, model: ModelFacts, device: DeviceFacts) -> Choice:
    places = [Placement(work.float8, on_host) for on_host in (False, True)][: 1 if device.is_host else None]
    costs = {place: live_cost(work, place, model, device) for place in places}
    reachable = {place: cost for place, cost in costs.items() if cost.host_bytes <= device.host_free_bytes}
    possible = [place for place, cost in reachable.items() if cost.least_bytes <= device.free_bytes]
    possible.sort(key=lambda place: costs[place].fetched_bytes)
    tried = [place for place, cost in reachable.items() if REFUSED_SHARE * cost.least_bytes <= device.free_bytes]
    chosen = next(iter([*possible, *tried[::-1], *places[::-1]]))
    return Choice(chosen, costs[chosen], fits=bool(tried))


def _blocks(work: LiveWork) -> str:
    again = f" and {work.played_back} played back" if work.played_back else ""
    return f"{work.blocks} blocks of {work.steps} steps{again}"


def _time(work: LiveWork, choice: Choice, device: DeviceFacts) -> str:
    seconds = choice.cost.block_s * work.blocks + choice.cost.playback_s * work.played_back
    speed = BLOCK_FRAMES / choice.cost.block_s
    return f"{rough_duration(seconds)} on {device.name}, {speed:.3g} of {LIVE_FPS} frames per second"


def _memory(choice: Choice, device: DeviceFacts) -> list[str]:
    place, cost, _ = choice
    kind, free = "RAM" if device.is_host else "GPU memory", gigabytes(device.free_bytes)
    where = f" in main memory: {gigabytes(cost.host_bytes)} of {gigabytes(device.host_free_bytes)}" if place.on_host else ""
    fetched = f", a step fetches {gigabytes(cost.fetched_bytes)} from main memory" if cost.fetched_bytes else ""
    return [
        f"{kind}: {gigabytes(cost.least_bytes)} at least, {gigabytes(cost.full_bytes)} for full speed, {free} free{fetched}",
        f"rings in {'float8' if place.float8 else 'full precision'}{where}",
    ]


def _reason(work: LiveWork, least_bytes: float, model: ModelFacts, device: DeviceFacts) -> str:
    return (
        f"A live video of {work.width}x{work.height} needs at least {gigabytes(least_bytes)} of GPU memory on {device.name} and "
        f"{gigabytes(device.free_bytes)} can be had, with {gigabytes(device.host_free_bytes)} of main memory for what the steps remember. "
        f"What helps, best first: {'; '.join(_advice(work, model, device))}."
    )


def _advice(work: LiveWork, model: ModelFacts, device: DeviceFacts) -> Iterator[str]:
    if not work.float8:
        yield "memory float8"
    for percent in range(95, 0, -5):
        height, width = size_within_area(work.height, work.width, work.height * work.width * percent // 100)
        smaller = live_cost(replace(work, height=height, width=width), Placement(work.float8, not device.is_host), model, device)
        if smaller.least_bytes <= device.free_bytes and smaller.host_bytes <= device.host_free_bytes:
            yield f"a size of {width}x{height} or less"
            break
    if model.weights_bytes > EIGHT_BIT * num_parameters(model.config):
        yield "an fp8 model file"
    yield "other programs closed"


def _step_seconds(work: LiveWork, model: ModelFacts, rates: Rates) -> float:
    """One step of a block."""
    height, width = work.size
    frame = (height // 2) * (width // 2)
    tokens, sink = BLOCK_LATENTS * frame, num_tokens(0, height, width, with_motion=True)
    linear, _ = model_flop(model.config, tokens, tokens)
    attention = 4.0 * model.config.num_layers * model.config.dim * tokens * (WINDOW_LATENTS * frame + sink)
    return linear / rates.linear + attention / rates.attention
