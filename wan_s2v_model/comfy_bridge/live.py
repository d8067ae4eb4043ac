"""Live video in ComfyUI: the transformer of a MODEL as a causal network, and a decoder whose caches live as long as the video."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.model_prefetch
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..constants import SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..cost.vae_tiles import Grid, grids, tiles
from ..kernels.triton_works import kernels_work
from ..sampling.live import CLIP_BLOCKS
from ..sampling.pipeline import LiveTeam, deal_steps, describe_steps
from ..sampling.progress import Progress
from ..transformer.blocks import Compute
from ..transformer.causal import CausalVideo, Engine, kept_bytes
from ..transformer.config import WanS2VConfig
from ..transformer.crew import Crew, Halt, StoppedError
from ..transformer.rings import Placement
from .display import RunDisplay, computation_in_words, lines_without_effect
from .gpus import gpus_of, without_copies
from .kernels import pick_attention, pick_linears, wants_float8_attention
from .memory import KEPT, RetryInLessMemory, is_loaded, load_all_weights, stays_on_gpu, take_all_others_off_gpu
from .model import AUDIO_STRENGTH_KEY, cast_comfy_weights, forward_of, is_watched, layers_just_in_time, with_s2v_forward
from .patches import is_for_live
from .runtime import LATENT_FORMAT
from .vae import VAE_ADVICE, can_tile, causal_cache, decode_coarse, decode_fine, plan_pass, prepare

logger = logging.getLogger("wan_s2v")
FLOAT8_RINGS = "what the steps remember in float8"
DECODER_MEMORY = 43  # latents; a frame depends on no older ones
LIVE_ADVICE = (
    f"{KEPT}For that close other programs, or switch offload on in Load Wan S2V Model. memory float8 in Sample Video Live, a smaller size "
    "or an fp8 file help, too, but with them it is another run."
)
UNKNOWN_DECODER_CONTEXT = 19  # latents in front of a block, for a VAE that only decodes as a whole


@dataclass(frozen=True)
class LivePlan:
    """What a live video is made for.

    Attributes:
        height, width: in latents. steps: how many the sampler makes. placement: of the rings.
    """

    height: int
    width: int
    steps: int = 4
    placement: Placement = Placement()  # noqa: RUF009


@contextmanager
def live_team(model: ModelPatcher, vae: comfy.sd.VAE, plan: LivePlan) -> Iterator[LiveTeam]:
    """The transformer of any MODEL with Wan S2V weights, on all its GPUs, for one video; everything is loaded, with room for the rings."""
    members, size = _members(model, vae), (plan.height, plan.width)
    _warn_of(model)
    logger.info("%s", computation_in_words(with_s2v_forward(model), FLOAT8_RINGS if plan.placement.float8 else ""))
    dealt = deal_steps(plan.steps, len(members))
    members = members[: len(dealt)]
    makers = [member for member, steps in zip(members, dealt, strict=True) if steps]
    halt, networks = Halt(), []
    load = _loader(makers, vae, plan, max(map(len, dealt)))
    with _running(makers), _pinning([member.load_device for member in members]) as pin, _crew(members, halt) as crew:
        for member, steps in zip(makers, filter(None, dealt), strict=True):
            engine = _engine(member, load if member is members[0] else _refuse, pin, halt.check)
            video = CausalVideo(forward_of(member).transformer, size, engine, steps=steps, placement=plan.placement)
            video.audio_strength = _options(member).get(AUDIO_STRENGTH_KEY, 1.0)
            networks.append(video)
        yield LiveTeam(dealt, networks, crew)


def _refuse() -> None:
    """ComfyUI loads models in one thread. What the other GPUs need stays there, as nothing else is loaded on them while they work."""
    raise RuntimeError("A copy of the MODEL was taken off its GPU while a live video was sampled. Queue the same again to go on.")


def _members(model: ModelPatcher, vae: comfy.sd.VAE) -> list[ModelPatcher]:
    """A MODEL and its copies with our forward, each for its own GPU alone; first that on the GPU of the VAE."""
    model = with_s2v_forward(model)
    model.match_multigpu_clones()
    first, *copies = gpus_of(model)
    return sorted([without_copies(first), *copies], key=lambda member: member.load_device != vae.device)


def _warn_of(model: ModelPatcher) -> None:
    """Log what is missing from a MODEL, and what it has for nothing."""
    if not is_for_live(model):
        logger.warning(
            "the MODEL has no LoRA of Live-Avatar, without which four steps make no picture: put liveavatar.safetensors on it with "
            "Load LoRA (Wan S2V)"
        )
    if is_watched(_options(model)):
        logger.warning("another node looks into the blocks of the MODEL: that has no effect on live video")


def _loader(makers: Sequence[ModelPatcher], vae: comfy.sd.VAE, plan: LivePlan, most_steps: int) -> Callable[[], None]:
    """Loads all now, with room for the rings; and gives what loads the first one again, when the rings are there and the others work."""
    shape, dtype = [1, 16, 6, plan.height, plan.width], makers[0].model.get_dtype_inference()
    work = 2 * makers[0].memory_required(shape)
    kept, _ = kept_bytes(forward_of(makers[0]).transformer.config, (plan.height, plan.width), most_steps, plan.placement, dtype)

    def load(members: Sequence[ModelPatcher], room: float) -> None:
        needed = room + plan_pass(vae, "decode", plan.height, plan.width, is_picture=False).needed_bytes()
        comfy.model_management.load_models_gpu([*members, vae.patcher], memory_required=needed, minimum_memory_required=room)
        for member in members:
            load_all_weights(member, shape)

    load(makers, work + kept)
    return lambda: load(makers[:1], work)


@contextmanager
def _running(members: Sequence[ModelPatcher]) -> Iterator[None]:
    """ComfyUI's beginning and end of every sampling."""
    try:
        for member in members:
            member.pre_run()
        yield
    finally:
        for member in members:
            member.cleanup()
        comfy.model_prefetch.cleanup_prefetch_queues()
        comfy.model_management.reset_cast_buffers()


@contextmanager
def _crew(members: Sequence[ModelPatcher], halt: Halt) -> Iterator[Crew]:
    """A crew on the GPUs of the members. Behind the context nobody works any more, however it was left."""
    crew = Crew([member.load_device for member in members], halt)
    try:
        yield crew
    finally:
        halt.fail(StoppedError())
        crew.close()


def _engine(member: ModelPatcher, load: Callable[[], None], pin: Callable[[Tensor], None], check: Callable[[], None]) -> Engine:
    forward, options, device = forward_of(member), _options(member), member.load_device
    return Engine(
        _computing(forward, member, options, load),
        lambda: layers_just_in_time(forward.transformer, device, dict(options), check),
        member.model.get_dtype_inference(),
        device,
        graphs=_stays_where_it_is(member),
        pin=pin,
    )


def _options(model: ModelPatcher) -> dict[str, Any]:
    """The transformer_options of a MODEL, with what ComfyUI itself says in each model call: whether layers are fetched ahead."""
    return {**model.model_options.get("transformer_options", {}), "prefetch_dynamic_vbars": model.is_dynamic()}


@contextmanager
def _pinning(devices: Sequence[torch.device]) -> Iterator[Callable[[Tensor], None]]:
    """A function that pins memory as ComfyUI does; all of it is given back in the end, once nothing is copied from or into it."""
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> None:
        if comfy.model_management.pin_memory(tensor):
            pinned.append(tensor)

    try:
        yield pin
    finally:
        for device in devices:
            if device.type == "cuda":
                with suppress(RuntimeError):  # a lost GPU
                    torch.cuda.synchronize(device)
        for tensor in pinned:
            comfy.model_management.unpin_memory(tensor)


def live_config(model: ModelPatcher) -> WanS2VConfig:
    """The architecture of the transformer in any MODEL with Wan S2V weights."""
    return forward_of(with_s2v_forward(model)).transformer.config


@contextmanager
def report_blocks(
    model: ModelPatcher, progress: Progress, num_frames: int, take: str, check: Callable[[], None]
) -> Iterator[Callable[[int, int, Tensor], None]]:
    """A function to call behind each step with block, step and latents [16, 3, h, w], which shows it on the node and in the log.

    Args:
        check: called after each step, may raise.
    """
    steps, num_gpus = progress.steps_per_clip // CLIP_BLOCKS, len(gpus_of(model))
    words = describe_steps(deal_steps(steps, num_gpus), num_gpus)
    if words:
        logger.info("%s", words)
    beside = take + lines_without_effect(with_s2v_forward(model))
    with RunDisplay(model, progress, num_frames, beside, below=lambda: words and f"\n{words}") as display:

        def on_step(block: int, step: int, x: Tensor) -> None:
            check()
            if step == 0 and block % CLIP_BLOCKS == 0:
                display.begin(block // CLIP_BLOCKS)
            display.step(block * steps + step + 1, x[None])

        yield on_step


def in_less_memory(model: ModelPatcher, placement: Placement, work: Callable[[Placement], None]) -> None:
    """Do the work with the rings where they were planned; where memory runs out again, with the GPU alone and then with less on it.

    What the work has finished it does not do again.
    """
    places = [placement]

    def savings() -> Iterator[str]:
        take_all_others_off_gpu(model)
        yield "with everything else off the GPU"
        if not placement.on_host:
            places.append(replace(placement, on_host=True))
            yield "with the rings in main memory"

    RetryInLessMemory("live sampling", savings(), LIVE_ADVICE).run(lambda: work(places[-1]))


def _computing(forward: Any, model: ModelPatcher, options: dict[str, Any], load: Callable[[], None]) -> Callable[[], Compute]:
    """Also loads the MODEL again where the VAE has taken its room: ComfyUI takes LoRAs out of the weights that it unloads."""
    device, dtype = model.load_device, model.model.get_dtype_inference()

    def compute() -> Compute:
        if not is_loaded(model):
            load()
        return Compute(
            attention=pick_attention(forward.attention, device, wants_float8_attention(forward.speed)),
            linears=pick_linears(forward.speed, device, dtype),
            cast=cast_comfy_weights,
            transformer_options=dict(options),
        )

    return compute


def _stays_where_it_is(model: ModelPatcher) -> bool:
    """Whether the weights of a MODEL keep their places on a GPU, as CUDA graphs need: loaded without `offload`, and not by dynamic VRAM."""
    return kernels_work(model.load_device) and stays_on_gpu(model) and not model.is_dynamic()


class LiveDecoder:
    """Decodes a video without end, some latents at a time: every frame is what one decode of all latents would give.

    Out of memory it goes on in smaller tiles, from the newest latents, on which alone the frames to come depend.

    Args:
        height, width: in latents.
    """

    def __init__(self, vae: comfy.sd.VAE, height: int, width: int):
        self._vae, self._height, self._width = vae, height, width
        self._grid: Grid = (1, 1)
        self._coarse: list | None = None
        self._fine: list[list] = []
        self._newest: Tensor | None = None
        self._retry = RetryInLessMemory("VAE decode", self._savings(), VAE_ADVICE)

    def __call__(self, latents: Tensor) -> Tensor:
        """Decode latents that follow those before, [1, 16, F, h, w] normalised -> frames [T, H, W, 3] in [0, 1], float32 on the CPU.

        Args:
            latents: an odd number of them if they are the first, later at least 2.
        Returns:
            4F frames, of the first latents 4F - 3.
        """
        frames = self._retry.run(lambda: self._decode(latents))
        known = latents.cpu() if self._newest is None else torch.cat([self._newest, latents.cpu()], dim=2)
        self._newest = known[:, :, -DECODER_MEMORY:]
        return frames

    def _decode(self, latents: Tensor) -> Tensor:
        if not can_tile(self._vae):
            return self._decode_as_a_whole(latents)
        with comfy.model_management.cuda_device_context(self._vae.device):
            if self._coarse is None or not is_loaded(self._vae.patcher):
                prepare(self._vae, plan_pass(self._vae, "decode", self._height, self._width, is_picture=False), self._grid)
            if self._coarse is None:
                self._start()
                if self._newest is not None:
                    self._go_on(self._newest)
            return self._go_on(latents)

    def _start(self) -> None:
        """Begin with empty caches."""
        decoder = self._vae.first_stage_model.decoder
        self._coarse = causal_cache(decoder)
        self._fine = [causal_cache(decoder) for _ in tiles(self._height, self._width, self._grid)]

    def _go_on(self, latents: Tensor) -> Tensor:
        assert self._coarse is not None
        is_first = self._coarse[0] is None
        features = list(decode_coarse(self._vae, LATENT_FORMAT.process_out(latents), self._coarse))
        height, width = (side * SPATIAL_STRIDE for side in latents.shape[3:])
        frames = torch.empty(TEMPORAL_STRIDE * latents.shape[2] - 3 * is_first, height, width, 3)
        for tile, cache in zip(tiles(self._height, self._width, self._grid), self._fine, strict=True):
            rows, columns, start = tile.rows, tile.columns, 0
            seen = (part[..., rows.seen(1), columns.seen(1)] for part in features)
            for part in decode_fine(self._vae, seen, cache):
                given = part[:, rows.inner(SPATIAL_STRIDE), columns.inner(SPATIAL_STRIDE)]
                frames[start : start + len(part), rows.given(SPATIAL_STRIDE), columns.given(SPATIAL_STRIDE)] = given
                start += len(part)
            if len(self._fine) > 1:  # those of all tiles would fill the memory that tiles are to save
                cache[:] = [kept.cpu() if isinstance(kept, Tensor) else kept for kept in cache]
        return frames

    def _decode_as_a_whole(self, latents: Tensor) -> Tensor:
        context = latents[:, :, :0] if self._newest is None else self._newest[:, :, -UNKNOWN_DECODER_CONTEXT:]
        frames = self._vae.decode(LATENT_FORMAT.process_out(torch.cat([context.to(latents), latents], dim=2)))[0].float().cpu()
        return frames[-TEMPORAL_STRIDE * latents.shape[2] :]

    def _savings(self) -> Iterator[str]:
        choices = grids(self._height, self._width) if can_tile(self._vae) else []
        for grid in choices[1:]:
            self._forget(grid)
            yield f"in {grid[0]} x {grid[1]} tiles"
        self._forget(self._grid)
        take_all_others_off_gpu(self._vae.patcher)
        yield "with everything else off the GPU"

    def _forget(self, grid: Grid) -> None:
        self._grid, self._coarse, self._fine = grid, None, []
