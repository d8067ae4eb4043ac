"""A video without end, three latents at a time, by the blocks of the transformer: Live-Avatar's causal inference.

Source of the algorithm: Alibaba-Quark/LiveAvatar (Apache-2.0), written anew. Picture and motion go through the network once, alone, at
timestep 0; their keys and values are kept (the sink). Then each block of latents sees itself, the nine latents before it and the sink.
What it sees of the latents before is how they were at the *same step* of the sampler: each step has a ring of its own, and none holds clean
latents. Positions count from the start of the video and never wrap; the picture goes along, some latents ahead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from typing import cast as cast_type

import torch
from torch import Tensor, nn

from ..constants import REFERENCE_TIME
from ..kernels.casting import CastWeights
from ..kernels.float8 import Activation
from ..kernels.fused import rms_norm_rope, scale_of_norm
from ..kernels.graphs import Graphs, addresses
from ..kernels.linears import Linears
from ..kernels.row_chunks import CHUNK_ROWS
from .audio_injector import Voice
from .blocks import Block, Compute, Prompt, Residual, Rope
from .config import WanS2VConfig
from .model import WanS2VTransformer, heard_voices
from .rings import KEYS, VALUES, Desks, Memories, OnDevice, OnHost, Placement, Remembered, Scales, Shape, write
from .rope import pairs_of_axes, rope_table, token_positions
from .shards import Heads, SelfAttention
from .speakers import Regions
from .tokens import unpatchify

BLOCK_LATENTS = 3
WINDOW_LATENTS = 12  # of the ring: the block itself and the nine latents before it


@dataclass
class Ring:
    """What one step of the sampler remembers.

    Attributes:
        start: the first latent since the ring was emptied; None before the first block.
    """

    memories: Memories
    start: int | None = None


@dataclass(frozen=True)
class Engine:
    """How a pass through the network runs.

    Attributes:
        compute: gives that of a pass. dtype: in which it computes.
        begin: called before each pass; gives what is called before each layer and behind the last one, for weights that are fetched just in
            time.
        graphs: passes with full rings are replayed as CUDA graphs; all weights have to stay on the device.
        pin: is given what waits in main memory, to pin it: other memory is copied too, but the device waits for it.
    """

    compute: Callable[[], Compute] = Compute
    begin: Callable[[], Callable[[], None]] = lambda: lambda: None
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    graphs: bool = False
    pin: Callable[[Tensor], object] = lambda tensor: None


class Pass(NamedTuple):
    """What a pass through the layers is given.

    Attributes:
        tokens: [1, 3n, dim]. e_head, e: of the timestep. rope, picture_rope: of the tokens and of the picture.
        voices: the speakers, and who hears them.
    """

    tokens: Tensor
    e_head: Tensor
    e: Tensor
    rope: Rope
    picture_rope: Rope
    voices: list[Voice]


class CausalVideo:
    """One video: its sink, and a ring for each step.

    Attributes:
        rings: of each step. audio_strength: how much of the sound is heard, as in `Conditions`.
    Args:
        size: height and width in latents.
        steps: those that run here, by their numbers. placement: of the rings. window: latents of a ring.
        rounds_rope: rotates by a table rounded to float16, as the official code does; otherwise the angles are exact to float32.
    """

    def __init__(
        self,
        transformer: WanS2VTransformer,
        size: tuple[int, int],
        engine: Engine = Engine(),
        *,
        steps: Sequence[int] = range(4),
        placement: Placement = Placement(),  # noqa: B008
        window: int = WINDOW_LATENTS,
        rounds_rope: bool = False,
    ):
        self.audio_strength = 1.0
        self._transformer, self._engine, self._dtype, self._device = transformer, engine, engine.dtype, engine.device
        self._window, self._placement = window, placement
        self._rotations = Rotations(*size, transformer.config.head_dim, self._device, rounds_rope)
        self._size, self._frame_tokens = size, self._rotations.frame_tokens
        num_sink = len(self._rotations.sink[0])
        self._shape = Shape(num_sink, window * self._frame_tokens, transformer.config.dim)
        self.rings = {step: Ring(memories) for step, memories in self._make_memories(steps).items()}
        self._picture_keys: list[Tensor] = []
        self._scales: list[Scales | None] = []
        self._times: dict[float, tuple[Tensor, Tensor]] = {}
        self._context: Tensor | None = None
        self._text: list[Prompt] = []
        self._heard: tuple[Tensor, Regions | None, list[Voice]] | None = None
        self._graphs = Graphs() if engine.graphs and not placement.on_host else None

    def _make_memories(self, steps: Sequence[int]) -> dict[int, Memories]:
        dtype, layers = self._placement.dtype(self._dtype), len(self._transformer.blocks)
        if not self._placement.on_host:
            return {step: OnDevice(self._shape, layers, dtype, self._device) for step in steps}
        desks = Desks(self._shape, layers, dtype, self._device)
        return {step: OnHost(self._shape, dtype, desks, self._engine.pin) for step in steps}

    def clear(self, start: int | None = None) -> None:
        """Empty all rings; the next anchor also finds the scales of float8 anew.

        Args:
            start: the latent from which on the rings count as filled, with zeros; None for the first one that comes.
        """
        for ring in self.rings.values():
            ring.memories.clear()
            ring.start = start
        self._scales = []

    def set_anchor(self, picture_latent: Tensor, motion_latents: Tensor, context: Tensor) -> None:
        """Make the sink: all layers see picture [1, 16, 1, h, w], motion [1, 16, 19, h, w] and prompt [1, L, text_dim]. Rings stay."""
        transformer, compute, next_layer = self._transformer, self._engine.compute(), self._engine.begin()
        cast = compute.cast
        self._project_text(context, cast)
        picture, motion = (latents.to(self._device, self._dtype) for latents in (picture_latent, motion_latents))
        stream = self._stream(transformer.embed_stills(picture, motion, cast))
        _, e = self._embed_time(0.0, cast)
        self._picture_keys = []
        if self._graphs is not None:
            self._graphs.forget()
        for index, block in enumerate(self._blocks()):
            next_layer()
            keys = PictureKeys(compute.linears, block, self._frame_tokens)
            sink = SinkAttention(stream.split)
            stream = block(stream, e, self._text[index], self._rotations.sink, replace(compute, linears=keys, part=sink))
            self._picture_keys.append(keys.projected)
            self._keep_sink(index, sink.keys, sink.values, cast)
        next_layer()

    def forward(
        self,
        x: Tensor,
        step: int,
        timestep: float,
        first_latent: int,
        distance: int,
        audio: Tensor,
        pose: Tensor | None = None,
        regions: Regions | None = None,
    ) -> Tensor:
        """The velocity of a block at one step. Blocks come in order; the same one may come again.

        Args:
            x: [16, 3, h, w]. timestep: on the 0..1000 scale, not truncated. first_latent: its number in the video.
            distance: of the picture ahead of it, in latents. audio: [layers, audio_dim, 12] features at 25 fps, with regions one for each
                speaker, [speakers, layers, audio_dim, 12]. pose: [1, 16, 3, h, w]. regions: who hears which speaker, for 3 latents.
        Returns:
            [16, 3, h, w] float32.
        """
        compute, ring = self._engine.compute(), self.rings[step]
        x = x[None].to(self._device, self._dtype)
        given = Pass(
            self._transformer.embed_video(x, None if pose is None else pose.to(self._device), compute.cast),
            *self._embed_time(timestep, compute.cast),
            self._rotations.at(range(first_latent, first_latent + BLOCK_LATENTS)),
            self._rotations.at([max(REFERENCE_TIME, first_latent + distance)]),
            self._hear(audio, regions, compute.cast),
        )
        own, seen = self._rows(ring, first_latent)

        def run(given: Pass) -> Tensor:
            return self._run_layers(given, ring, (own, seen), compute)

        if self._graphs is None or regions is not None or seen < self._shape.sink + self._shape.ring:
            patches = run(given)
        else:
            self._engine.begin()()  # a replay asks nobody whether it is cancelled
            patches = self._graphs.run((step, own.start), given, run, addresses(self._transformer.parameters()))
        return unpatchify(patches, x.shape[2], *self._size)[0]

    def _run_layers(self, given: "Pass", ring: Ring, rows: tuple[slice, int], compute: Compute) -> Tensor:
        """All layers and the head: [1, 3n, 16 * 4]."""
        next_layer, (own, seen) = self._engine.begin(), rows
        stream = self._stream(given.tokens)
        for index, block in enumerate(self._blocks()):
            next_layer()
            compute.transformer_options["block_index"] = index
            memory = ring.memories.open(index, seen)
            self._turn_picture(index, memory, given.picture_rope, compute.cast)
            keys = Remembered(memory, own, seen, self._scales[index])
            stream = block(stream, given.e, self._text[index], given.rope, replace(compute, part=keys))
            ring.memories.close(index, own)
            stream = self._transformer.audio_injector(stream, index, given.voices, compute)
        next_layer()
        return self._transformer.head(stream.summed(), given.e_head, compute.cast)

    def _stream(self, tokens: Tensor) -> Residual:
        """Tokens [1, S, dim] that all have the first row of modulations."""
        return Residual(tokens.to(self._transformer.residual_dtype or self._dtype), tokens.shape[1], is_own=True)

    def _blocks(self) -> list[Block]:
        return cast_type(list[Block], list(self._transformer.blocks))

    def _embed_time(self, timestep: float, cast: CastWeights) -> tuple[Tensor, Tensor]:
        """Of a timestep, once: a step always has the same."""
        if timestep not in self._times:
            self._times[timestep] = self._transformer.embed_time(torch.tensor([timestep], dtype=torch.float64), cast, self._device)
        return self._times[timestep]

    def _project_text(self, context: Tensor, cast: CastWeights) -> None:
        """Keys and values of the prompt for each layer, once."""
        if context is self._context:
            return
        tokens = self._transformer.embed_text(context.to(self._device, self._dtype))
        self._text = [Prompt(*block.project_text(tokens, cast), tokens) for block in self._blocks()]
        self._context = context

    def _hear(self, audio: Tensor, regions: Regions | None, cast: CastWeights) -> list[Voice]:
        """What the injectors need of the sounds of a block, the same in all its steps."""
        if self._heard is None or self._heard[0] is not audio or self._heard[1] is not regions:
            voices = [self._voice(sound, cast) for sound in ([audio] if regions is None else audio)]
            self._heard = audio, regions, heard_voices(voices, regions, None, self._device)
        return self._heard[2]

    def _voice(self, sound: Tensor, cast: CastWeights) -> Voice:
        whole, local = self._transformer.embed_audio(sound[None].to(self._device), self.audio_strength, cast)
        return Voice(self._transformer.audio_injector.project(whole, local, self._dtype, cast))

    def _rows(self, ring: Ring, first_latent: int) -> tuple[slice, int]:
        """The rows of a memory that a block writes, and how many rows, from the first on, it sees."""
        ring.start = first_latent if ring.start is None else ring.start
        passed = first_latent - ring.start
        slot = self._shape.sink + passed % self._window * self._frame_tokens
        filled = min(passed + BLOCK_LATENTS, self._window)
        return slice(slot, slot + BLOCK_LATENTS * self._frame_tokens), self._shape.sink + filled * self._frame_tokens

    def _keep_sink(self, layer: int, keys: Tensor, values: Tensor, cast: CastWeights) -> None:
        """Put keys and values of the sink, each [1, S, dim], into the memories of all steps."""
        if layer == len(self._scales):
            self._scales.append(self._scales_of(layer, values, cast) if self._placement.float8 else None)
        sink, whole = self._shape.empty(self._shape.sink, self._placement.dtype(self._dtype), self._device), slice(None)
        write(sink, KEYS, whole, keys, self._scales[layer])
        write(sink, VALUES, whole, values, self._scales[layer])
        for ring in self.rings.values():
            ring.memories.set_sink(layer, sink)

    def _scales_of(self, layer: int, values: Tensor, cast: CastWeights) -> Scales:
        attention = self._blocks()[layer].self_attn
        with cast(attention.norm_k, values) as (weight, _):
            return Scales.of_layer(scale_of_norm(weight, attention.num_heads), values)

    def _turn_picture(self, layer: int, memory: Tensor, rope: Rope, cast: CastWeights) -> None:
        """Write the keys of the picture where it is now."""
        attention, projected = self._blocks()[layer].self_attn, self._picture_keys[layer]
        with cast(attention.norm_k, projected) as (weight, _):
            keys = rms_norm_rope(projected.clone(), weight, attention.eps, rope)
        write(memory, KEYS, slice(self._frame_tokens), keys, self._scales[layer])


def kept_bytes(config: WanS2VConfig, size: tuple[int, int], num_steps: int, placement: Placement, dtype: torch.dtype) -> tuple[int, int]:
    """What a video keeps: bytes on the device and in main memory.

    Args:
        size: height and width in latents. dtype: in which the network computes.
    """
    height, width = size
    frame, sink = height // 2 * (width // 2), len(token_positions(0, height, width, with_motion=True))
    ring, row = WINDOW_LATENTS * frame, 2 * config.dim * placement.dtype(dtype).itemsize  # keys and values
    once = config.num_layers * (frame + 2 * config.text_len) * config.dim * dtype.itemsize  # keys of the picture, and the prompt
    if placement.on_host:
        return once + (config.num_layers * sink + 2 * (sink + ring)) * row, num_steps * config.num_layers * ring * row
    return once + num_steps * config.num_layers * (sink + ring) * row, 0


class Rotations:
    """Rotations of tokens that stand on the grid of a latent, at any time.

    Args:
        size: height and width in latents. rounded: to float16.
    Attributes:
        frame_tokens: of a latent. sink: cos and sin of picture and motion, each [S, head_dim // 2].
    """

    def __init__(self, height: int, width: int, head_dim: int, device: torch.device, rounded: bool):
        self._head_dim, self._device, self._rounded = head_dim, device, rounded
        stills = token_positions(0, height, width, with_motion=True)
        self.frame_tokens = height // 2 * (width // 2)
        self.sink = self._table(stills)
        self._grid = [table[: self.frame_tokens] for table in self.sink]

    def at(self, times: Sequence[int]) -> Rope:
        """Cos and sin of all tokens of a latent at each of these times: each [times * n, head_dim // 2]."""
        positions = torch.zeros(len(times), 3, dtype=torch.int64)
        positions[:, 0] = torch.tensor(times)
        pairs = pairs_of_axes(self._head_dim)[0]
        turned = []
        for time, grid in zip(self._table(positions), self._grid, strict=True):  # [times, pairs], [n, pairs]
            parts = time[:, None, :pairs].expand(-1, self.frame_tokens, -1), grid[None, :, pairs:].expand(len(times), -1, -1)
            turned.append(torch.cat(parts, dim=2).flatten(0, 1))
        return turned[0], turned[1]

    def _table(self, positions: Tensor) -> Rope:
        cos, sin = rope_table(positions, self._head_dim)
        if self._rounded:
            cos, sin = cos.half().float(), sin.half().float()
        return cos.to(self._device), sin.to(self._device)


class SinkAttention(SelfAttention):
    """Self attention of the sink's own tokens, whose keys and values stay known: each [1, S, dim]."""

    keys: Tensor
    values: Tensor

    def __init__(self, num_keys: int):
        self.num_keys = num_keys

    def takes_float8(self, heads: int) -> bool:
        """What is kept has not been rounded."""
        return False

    def self_attention(self, heads: int) -> SelfAttention:
        return self

    def take_keys(self, keys: Heads) -> None:
        self.keys = self._keys = cast_type(Tensor, keys)

    def take_values(self, values: Heads) -> None:
        self.values = self._values = cast_type(Tensor, values)


class PictureKeys(Linears):
    """Computes as other linears do, and keeps what the picture's keys are before their norm: that is rotated anew in each pass.

    Attributes:
        projected: [1, n, dim].
    """

    projected: Tensor

    def __init__(self, inner: Linears, block: Block, count: int):
        self._inner, self._layer, self._count = inner, block.self_attn.k, count
        self.rounding = inner.rounding

    def input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return self._inner.input_dtype(dtype)

    def __call__(self, layer: nn.Module, x: Activation) -> Tensor:
        out = self._inner(layer, x)
        if layer is self._layer:
            self.projected = out[:, : self._count].clone()
        return out

    def feed_forward(self, first: nn.Module, second: nn.Module, x: Activation, cast: CastWeights, chunk_rows: int = CHUNK_ROWS) -> Tensor:
        return self._inner.feed_forward(first, second, x, cast, chunk_rows)
