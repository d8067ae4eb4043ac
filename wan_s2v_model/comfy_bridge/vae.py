"""Encoding and decoding in a stream of frames: exact, interruptible, in the memory that is there.

ComfyUI's own calls keep all frames on the GPU and, out of memory, go over to tiles that start anew in time and are blended. Here each
tile runs through all frames with its own causal cache and sees so much around it that nothing has to be blended: only the layers between
latents, which need little memory and one of which is an attention over the picture, never see tiles.

Latents [F] and frames [T] go through in parts of the sizes that ComfyUI uses, one and then two latents or frames; with smaller ones its
causal cache would lose frames. A VAE with another network inside is run by its own calls.
"""

import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy.ldm.wan.vae import CACHE_T, CausalConv3d, Resample, WanVAE, count_cache_layers
from torch import Tensor, nn

from ..constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..cost.vae_memory import DECODE, ENCODE, VaePass, choose_grid, describe_choice
from ..cost.vae_tiles import Grid, Tile, deal, grids, shared_grid, tiles
from ..transformer.crew import Crew, Halt, Member
from .gpus import copies_for, rates_of
from .memory import KEPT, Outbox, RetryInLessMemory, bring_over, in_host_memory, room_for, take_all_others_off_gpu
from .runtime import LATENT_FORMAT, raise_if_interrupted

logger = logging.getLogger("wan_s2v")
AT_ONCE = 2  # latents or frames, behind the first
PLAIN_DIM = 96  # channels of Wan2.1's VAE at full resolution
_announced: dict[str, tuple] = {}  # the last choice that was logged, for encode and for decode
VAE_ADVICE = (
    f"{KEPT}For that close other programs that use the GPU. Setting dtype to bf16 in Load Wan S2V VAE and a smaller size help, too, but "
    "with them it is another run."
)


def require_wan_vae(vae: comfy.sd.VAE) -> None:
    """Raise ValueError unless the VAE is Wan2.1's."""
    channels, dimensions = getattr(vae, "latent_channels", None), getattr(vae, "latent_dim", None)
    if channels != LATENT_CHANNELS or dimensions != 3:
        raise ValueError(
            f"Wan S2V needs the Wan2.1 VAE (16 channels, video); the connected one has {channels} channels. Load wan_2.1_vae.safetensors."
        )


def encode_pixels(vae: comfy.sd.VAE, frames: Tensor, grid: Grid | None = None, helpers: Sequence[comfy.sd.VAE] = ()) -> Tensor:
    """[T, H, W, 3] in [0, 1] -> [1, 16, F, h, w] normalised latents, float32 on the CPU.

    Args:
        grid: rows and columns of tiles; None for the fewest that fit. helpers: copies of the VAE on other GPUs, which take their share of
            the tiles.
    """
    raise_if_interrupted()
    vaes = [vae, *helpers]
    return _encode(vaes, frames, fitting_grid(vaes, "encode", _latents_of(frames), grid) if can_tile(vae) else (1, 1))


def _encode(vaes: Sequence[comfy.sd.VAE], frames: Tensor, grid: Grid) -> Tensor:
    """`encode_pixels` by VAEs that are loaded."""
    vae = vaes[0]
    if not can_tile(vae):
        return LATENT_FORMAT.process_in(vae.encode(frames).float().cpu())
    with comfy.model_management.cuda_device_context(vae.device):
        features = _encode_fine(vae, frames) if grid == (1, 1) else _encode_tiles(vaes, frames, grid)
        return LATENT_FORMAT.process_in(_encode_coarse(vae, features).float().cpu())


def decode_latents(
    vae: comfy.sd.VAE, latents: Tensor, grid: Grid | None = None, newest: int | None = None, helpers: Sequence[comfy.sd.VAE] = ()
) -> Tensor:
    """[1, 16, F, h, w] normalised latents -> [4F - 3, H, W, 3] in [0, 1], float32 on the CPU.

    Args:
        grid: rows and columns of tiles; None for the fewest that fit.
        newest: only the last so many frames are wanted, and leave the GPU; None for all. helpers: as of `encode_pixels`.
    """
    raise_if_interrupted()
    vaes = [vae, *helpers]
    return _decode(vaes, latents, fitting_grid(vaes, "decode", latents.shape[2:], grid) if can_tile(vae) else (1, 1), newest)


def _decode(vaes: Sequence[comfy.sd.VAE], latents: Tensor, grid: Grid, newest: int | None) -> Tensor:
    """`decode_latents` by VAEs that are loaded."""
    vae, raw = vaes[0], LATENT_FORMAT.process_out(latents)
    if not can_tile(vae):
        return vae.decode(raw)[0].float().cpu()
    num_latents, height, width = raw.shape[2:]
    num_frames = TEMPORAL_STRIDE * (num_latents - 1) + 1
    num_wanted = num_frames if newest is None else min(newest, num_frames)
    frames = torch.empty(num_wanted, height * SPATIAL_STRIDE, width * SPATIAL_STRIDE, 3)
    with comfy.model_management.cuda_device_context(vae.device):
        features = decode_coarse(vae, raw)
        if grid == (1, 1):
            _fill(frames, decode_fine(vae, features, _cache_of_clip(vae, num_latents)), num_frames - num_wanted, vae.device)
        else:
            _decode_tiles(vaes, [in_host_memory(part) for part in features], grid, frames, num_frames - num_wanted)
    return frames


def can_tile(vae: comfy.sd.VAE) -> bool:
    """Whether this VAE runs through our code, in tiles where it has to."""
    return isinstance(vae.first_stage_model, WanVAE)


def fitting_grid(vaes: Sequence[comfy.sd.VAE], name: str, shape: Sequence[int], grid: Grid | None = None) -> Grid:
    """The fewest tiles that fit in the memory which is free on all GPUs, or those that are given; loads the VAEs.

    Args:
        name: encode or decode. shape: latent frames, height and width in latents.
    """
    num_latents, height, width = shape
    every = [prepare(vae, plan_pass(vae, name, height, width, is_picture=num_latents == 1), grid) for vae in vaes[::-1]]
    return max(every, key=math.prod)


def _latents_of(frames: Tensor) -> tuple[int, int, int]:
    """Latent frames, height and width of [T, H, W, 3] in latents."""
    num_frames, height, width = frames.shape[:3]
    return (num_frames - 1) // TEMPORAL_STRIDE + 1, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE


def _encode_tiles(vaes: Sequence[comfy.sd.VAE], frames: Tensor, grid: Grid) -> list[Tensor]:
    """The features of whole pictures, on the CPU, put together from tiles."""
    height, width = (side // SPATIAL_STRIDE for side in frames.shape[1:3])
    features: list[Tensor] = []
    lock = threading.Lock()

    def encode(vae: comfy.sd.VAE, tile: Tile, check: Callable[[], None]) -> None:
        def hand_on(part: Tensor) -> None:
            index = next(number)
            with lock:
                if index == len(features):
                    features.append(torch.empty(*part.shape[:3], height, width, dtype=part.dtype))
            features[index][..., tile.rows.given(1), tile.columns.given(1)] = part

        number, outbox = itertools.count(), Outbox(vae.device)
        for part in _encode_fine(vae, frames, tile):
            check()
            outbox.put(part[..., tile.rows.inner(1), tile.columns.inner(1)], hand_on)
        outbox.empty()

    _share(vaes, tiles(height, width, grid), encode)
    return features


def _decode_tiles(vaes: Sequence[comfy.sd.VAE], features: list[Tensor], grid: Grid, frames: Tensor, num_unwanted: int) -> None:
    """Fill the frames behind the unwanted ones from features on the CPU, tile by tile."""
    height, width = features[0].shape[-2:]

    def decode(vae: comfy.sd.VAE, tile: Tile, check: Callable[[], None]) -> None:
        def given() -> Iterator[Tensor]:
            whole = (bring_over(part, vae.device) for part in features)
            seen = (part[..., tile.rows.seen(1), tile.columns.seen(1)] for part in whole)
            for part in decode_fine(vae, seen, _cache_of_clip(vae, len(features))):
                check()
                yield part[:, tile.rows.inner(SPATIAL_STRIDE), tile.columns.inner(SPATIAL_STRIDE)]

        _fill(frames[:, tile.rows.given(SPATIAL_STRIDE), tile.columns.given(SPATIAL_STRIDE)], given(), num_unwanted, vae.device)

    _share(vaes, tiles(height, width, grid), decode)


def _share(vaes: Sequence[comfy.sd.VAE], work_on: Iterable[Tile], work: Callable[[comfy.sd.VAE, Tile, Callable[[], None]], None]) -> None:
    """Work on all tiles, each VAE on as many as its GPU is fast; an error of one ends the work of all."""
    crew, every = Crew([vae.device for vae in vaes], Halt()), list(work_on)
    ends = [0, *itertools.accumulate(deal(len(every), _rates(vaes)))]

    def work_on_share(member: Member) -> Tensor:
        for tile in every[ends[member.rank] : ends[member.rank + 1]]:
            work(vaes[member.rank], tile, member.check)
        return every_tile_done

    every_tile_done = torch.empty(0)
    try:
        crew.run(work_on_share)
    finally:
        crew.close()


def _rates(vaes: Sequence[comfy.sd.VAE]) -> list[float]:
    """How fast the GPU of each is."""
    return rates_of([vae.device for vae in vaes], vaes[0].vae_dtype) if len(vaes) > 1 else [1.0]


def _fill(frames: Tensor, parts: Iterable[Tensor], num_unwanted: int, device: torch.device) -> None:
    """Copy the parts, [1 or more, H, W, 3] each on a device, behind the first so many frames."""
    start, outbox = -num_unwanted, Outbox(device)
    for part in parts:
        stop = start + len(part)
        if stop > 0:
            outbox.put(part[max(0, -start) :], frames[max(0, start) : stop].copy_)
        start = stop
    outbox.empty()


def _encode_fine(vae: comfy.sd.VAE, frames: Tensor, tile: Tile | None = None) -> Iterator[Tensor]:
    """[T, H, W, 3] in [0, 1] -> features [1, C, 1 or 2, h, w] of a tile, by the layers from pixels to latents.

    Only two frames are on the device. They are cut and turned there: the CPU is slower at that, and several threads of it in each
    other's way.
    """
    encoder = vae.first_stage_model.encoder
    num_frames = len(frames) - (len(frames) - 1) % TEMPORAL_STRIDE
    cache = causal_cache(encoder) if num_frames > 1 else None
    for start in (0, *range(1, num_frames, AT_ONCE)):
        raise_if_interrupted()
        stop = start + AT_ONCE if start else 1
        pixels = bring_over(frames[start:stop], vae.device)
        if tile is not None:
            pixels = pixels[:, tile.rows.seen(SPATIAL_STRIDE), tile.columns.seen(SPATIAL_STRIDE)]
        pixels = vae.process_input(pixels).movedim(-1, 0)[None]  # [T, H, W, 3] -> [1, 3, T, H, W]
        slot = [0]
        part = _convolve(encoder.conv1, pixels.to(vae.vae_dtype), cache, slot)
        for layer in encoder.downsamples[: _last_resample(encoder.downsamples) + 1]:
            part = layer(part, cache, slot, final=stop == num_frames)
            if part is None:  # kept by the layer until there are enough frames
                break
        else:
            yield part


def _encode_coarse(vae: comfy.sd.VAE, features: Iterable[Tensor]) -> Tensor:
    """Features -> [1, 16, F, h, w], by the layers between latents."""
    network = vae.first_stage_model
    encoder = network.encoder
    layers = [*encoder.downsamples[_last_resample(encoder.downsamples) + 1 :], *encoder.middle]
    cache, parts = causal_cache(encoder), []
    for feature in features:
        raise_if_interrupted()
        part, slot = feature.to(vae.device), [0]
        for layer in layers:
            part = layer(part, cache, slot)
        parts.append(_convolve(encoder.head[-1], encoder.head[:-1](part), cache, slot))
    mean, _ = network.conv1(torch.cat(parts, dim=2)).chunk(2, dim=1)
    return mean


def decode_coarse(vae: comfy.sd.VAE, latents: Tensor, cache: list | None = None) -> Iterator[Tensor]:
    """[1, 16, F, h, w] -> features [1, C, 1 to 3, h, w], by the layers between latents.

    Args:
        cache: of a video that goes on, of `causal_cache`; it is filled by latents that begin with one alone. None for a whole video.
    """
    network = vae.first_stage_model
    decoder = network.decoder
    layers = [*decoder.middle, *decoder.upsamples[: _first_resample(decoder.upsamples)]]
    inputs = network.conv2(latents.to(vae.device, vae.vae_dtype))
    parts = whole_parts(inputs.shape[2]) if cache is None else parts_to_go_on(inputs.shape[2], is_first=cache[0] is None)
    cache = causal_cache(decoder) if cache is None else cache
    for part in inputs.split(parts, dim=2):
        raise_if_interrupted()
        slot = [0]
        part = _convolve(decoder.conv1, part, cache, slot)
        for layer in layers:
            part = layer(part, cache, slot)
        yield part


def whole_parts(count: int) -> list[int]:
    """In what parts latents of a whole video go through: one, then AT_ONCE."""
    return [1, *(min(AT_ONCE, count - start) for start in range(1, count, AT_ONCE))]


def parts_to_go_on(count: int, is_first: bool) -> list[int]:
    """The same for latents that others follow: a cache that is in use never sees one alone."""
    rest = count - is_first
    parts = [AT_ONCE] * (rest // AT_ONCE)
    if rest % AT_ONCE:
        parts[-1] += 1
    return [1, *parts] if is_first else parts


def decode_fine(vae: comfy.sd.VAE, features: Iterable[Tensor], cache: list | None) -> Iterator[Tensor]:
    """Features -> frames [1 or 2, H, W, 3] in [0, 1], float32 on the device, by the layers from latents to pixels."""
    decoder = vae.first_stage_model.decoder
    for feature in features:
        raise_if_interrupted()
        parts: list[Tensor] = []
        decoder.run_up(_first_resample(decoder.upsamples), [feature.to(vae.device)], cache, [0], parts)
        for part in parts:
            yield vae.process_output(part.float())[0].movedim(0, -1)


def _convolve(convolution: CausalConv3d, part: Tensor, cache: list | None, slot: list[int]) -> Tensor:
    """Convolve over the part and what the cache holds of the frames before; move the slot on, as the network's layers do."""
    if cache is None:
        return convolution(part)
    recent = part[:, :, -CACHE_T:]
    result = convolution(part, cache_list=cache, cache_idx=slot[0])
    cache[slot[0]] = recent
    slot[0] += 1
    return result


def _cache_of_clip(vae: comfy.sd.VAE, num_latents: int) -> list | None:
    """For one tile of a whole clip; a picture needs none."""
    return causal_cache(vae.first_stage_model.decoder) if num_latents > 1 else None


def causal_cache(network: nn.Module) -> list:
    return [None] * count_cache_layers(network)


def _first_resample(layers: nn.Sequential) -> int:
    return next(index for index, layer in enumerate(layers) if isinstance(layer, Resample))


def _last_resample(layers: nn.Sequential) -> int:
    return max(index for index, layer in enumerate(layers) if isinstance(layer, Resample))


def plan_pass(vae: comfy.sd.VAE, name: str, height: int, width: int, is_picture: bool) -> VaePass:
    """height and width in latents."""
    return VaePass(
        name,
        ENCODE if name == "encode" else DECODE,
        height,
        width,
        value_bytes=vae.vae_dtype.itemsize,
        is_picture=is_picture,
        width_factor=vae.first_stage_model.dim / PLAIN_DIM,
    )


def prepare(vae: comfy.sd.VAE, vae_pass: VaePass, grid: Grid | None) -> Grid:
    """Load the VAE, with as much room for the work as ComfyUI can make, then choose and say so."""
    comfy.model_management.load_models_gpu(
        [vae.patcher], memory_required=vae_pass.needed_bytes(), minimum_memory_required=0, force_full_load=vae.disable_offload
    )
    missing, free = room_for(vae)
    vae_pass = replace(vae_pass, weights_bytes=missing)
    grid = grid or choose_grid(vae_pass, free)
    chosen = (vae_pass.height, vae_pass.width, grid)
    if _announced.get(vae_pass.name) != chosen:
        _announced[vae_pass.name] = chosen
        level = logging.INFO if vae_pass.needed_bytes(grid) <= free else logging.WARNING
        logger.log(level, describe_choice(vae_pass, grid, free))
    return grid


class RunVae:
    """The VAE of one run, for pictures of one size: where memory runs out it gets the GPU to itself, then smaller tiles.

    Args:
        model: with copies on other GPUs: the VAE gets copies there, too.
    """

    def __init__(self, vae: comfy.sd.VAE, model: comfy.model_patcher.ModelPatcher | None = None):
        self._vae = vae
        self._vaes = [vae, *([] if model is None or not can_tile(vae) else copies_for(vae, model))]
        self._tried: dict[str, Grid] = {}
        self._chosen: dict[str, Grid] = {}
        self._retries: dict[str, RetryInLessMemory] = {}

    def encode(self, frames: Tensor) -> Tensor:
        """`encode_pixels`."""
        return self._run("encode", _latents_of(frames), lambda grid: _encode(self._vaes, frames, grid))

    def decode(self, latents: Tensor, newest: int | None = None) -> Tensor:
        """`decode_latents`."""
        return self._run("decode", latents.shape[2:], lambda grid: _decode(self._vaes, latents, grid, newest))

    def _run(self, name: str, shape: Sequence[int], work: Callable[[Grid], Tensor]) -> Tensor:
        _, height, width = shape
        if name not in self._retries:
            self._retries[name] = RetryInLessMemory(f"VAE {name}", self._savings(name, height, width), VAE_ADVICE)

        def attempt() -> Tensor:
            raise_if_interrupted()
            if not can_tile(self._vae):
                return work((1, 1))
            fitting = fitting_grid(self._vaes, name, shape, self._chosen.get(name))
            self._tried[name] = grid = shared_grid(height, width, fitting, _rates(self._vaes))
            if grid != fitting and _announced.get(f"{name}, shared") != (shape, grid):
                _announced[f"{name}, shared"] = shape, grid
                logger.info("VAE %s: %d tiles on %d GPUs", name, math.prod(grid), len(self._vaes))
            return work(grid)

        return self._retries[name].run(attempt)

    def _savings(self, name: str, height: int, width: int) -> Iterator[str]:
        for vae in self._vaes:
            take_all_others_off_gpu(vae.patcher)
        yield "with everything else off the GPU"
        if not can_tile(self._vae):
            return
        choices = grids(height, width)
        for grid in choices[choices.index(self._tried.get(name, choices[0])) + 1 :]:
            self._chosen[name] = grid
            yield f"in {grid[0]} x {grid[1]} tiles"
