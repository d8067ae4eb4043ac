"""Live video: blocks of three latents, sampled one behind the other without an end, by few Euler steps each.

Source of the rules: Alibaba-Quark/LiveAvatar (Apache-2.0), written anew. A clip is four blocks; it only decides noise and the anchor.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS, MOTION_FRAMES, MOTION_LATENTS, TEMPORAL_STRIDE, TRAIN_TIMESTEPS
from ..transformer.causal import BLOCK_LATENTS, WINDOW_LATENTS, CausalVideo
from ..transformer.speakers import Regions
from .clip_loop import Encode, clip_seed

LIVE_STEPS = (4, 3)
BLOCK_FRAMES = TEMPORAL_STRIDE * BLOCK_LATENTS
CLIP_BLOCKS = WINDOW_LATENTS // BLOCK_LATENTS
CLIP_FRAMES = CLIP_BLOCKS * BLOCK_FRAMES
SHIFT = 3.0
NEAREST, FARTHEST = 4, 30  # latents that the picture is ahead
FIRST_LATENT, PICTURE = LIVE_ANCHORS = ("first generated latent", "picture")
PICTURE_COPIES, PICTURE_HISTORY = 5, 5 * MOTION_FRAMES  # frames, of the anchor that stays the picture
PRIMING_LATENTS = 7  # of the motion, the oldest: the decoder begins with them, and their frames are left out
RECALLED_BLOCKS = 2 * CLIP_BLOCKS  # that are played back into empty rings

OnStep = Callable[[int, int, Tensor], None]  # block, step, x [16, 3, h, w] behind it


def official_sigmas(steps: int) -> list[float]:
    """Noise levels from 1 down to 0; the shift acts twice on the smallest one above 0."""
    return [*_shifted(np.linspace(1.0, _shifted(np.array(1 / TRAIN_TIMESTEPS)), steps)).tolist(), 0.0]


def _shifted(levels: np.ndarray) -> np.ndarray:
    return SHIFT * levels / (1 + (SHIFT - 1) * levels)


def live_sigmas(steps: int) -> list[float]:
    """Noise levels of one of LIVE_STEPS: the official four, or these without the last step, which changes next to nothing."""
    return [*official_sigmas(LIVE_STEPS[0])[:steps], 0.0]


def picture_distance(seed: int, block: int, step: int) -> int:
    """How many latents the picture is ahead, NEAREST to FARTHEST; the same wherever a run goes on, on any machine."""
    digest = hashlib.sha256(f"{seed} {block} {step}".encode()).digest()
    return NEAREST + int.from_bytes(digest[:8], "big") % (FARTHEST - NEAREST + 1)


class BlockNoise:
    """Noise of the blocks [16, 3, h, w] float32: parts of that of their clip, which a CPU generator draws with seed + clip."""

    def __init__(self, height: int, width: int, seed: int):
        self._shape, self._seed = (LATENT_CHANNELS, WINDOW_LATENTS, height, width), seed
        self._clip: tuple[int, Tensor] | None = None

    def __call__(self, block: int) -> Tensor:
        clip, part = divmod(block, CLIP_BLOCKS)
        if self._clip is None or self._clip[0] != clip:
            self._clip = clip, torch.randn(self._shape, generator=torch.Generator().manual_seed(clip_seed(self._seed, clip)))
        return self._clip[1][:, part * BLOCK_LATENTS : (part + 1) * BLOCK_LATENTS]


class Anchor(NamedTuple):
    """What all blocks see: picture_latent [1, 16, 1, h, w] and motion_latents [1, 16, 19, h, w], normalised."""

    picture_latent: Tensor
    motion_latents: Tensor


def first_anchor(style: str, picture: Tensor, encode: Encode) -> Anchor:
    """The anchor before the first block.

    Args:
        style: one of LIVE_ANCHORS. picture: [H, W, 3] in [0, 1].
    """

    def still(frames: int) -> Tensor:
        return encode(picture.expand(frames, *picture.shape))

    if style == FIRST_LATENT:
        return Anchor(still(1), still(MOTION_FRAMES))
    return Anchor(still(PICTURE_COPIES)[:, :, 1:2], still(PICTURE_HISTORY)[:, :, -MOTION_LATENTS:])


class Heard(NamedTuple):
    """What a block is told: sound [layers, audio_dim, 12], or with regions that of each speaker in front; pose [1, 16, 3, h, w] or None."""

    sound: Tensor
    pose: Tensor | None = None
    regions: Regions | None = None


@dataclass(frozen=True)
class Told:
    """What the network is told, beside the anchor.

    Attributes:
        context: [1, L, text_dim]. of_block: by its number. distance: of the picture, by block and step.
    """

    context: Tensor
    of_block: Callable[[int], Heard]
    distance: Callable[[int, int], int]


@dataclass(frozen=True)
class LiveBlock:
    """A finished block: latents [16, 3, h, w] and what each step was given, of the same shape; float32 on the CPU."""

    index: int
    latents: Tensor
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Unfinished:
    """A block of which not all steps are made.

    Attributes:
        x: [16, 3, h, w], what the next step is given. inputs: what each step before it was given.
    """

    index: int
    heard: Heard
    x: Tensor
    inputs: tuple[Tensor, ...] = ()

    def on_cpu(self) -> "Unfinished":
        return replace(self, x=self.x.cpu(), inputs=tuple(given.cpu() for given in self.inputs))

    def finished(self) -> LiveBlock:
        done = self.on_cpu()
        return LiveBlock(done.index, done.x, done.inputs)


@dataclass(frozen=True)
class LiveState:
    """Where a video is; enough to go on behind an emptying of the rings.

    Attributes:
        block: the next one. recent: the newest blocks, at most RECALLED_BLOCKS.
    """

    block: int
    anchor: Anchor
    recent: tuple[LiveBlock, ...] = ()


class LiveSampler:
    """Samples the blocks of one video.

    Args:
        sigmas: noise levels, from 1 to 0. on_step: called behind each step.
    """

    def __init__(self, network: CausalVideo, told: Told, sigmas: Sequence[float], on_step: OnStep = lambda *_: None):
        self._network, self._told, self._sigmas, self._on_step = network, told, sigmas, on_step

    @property
    def num_steps(self) -> int:
        return len(self._sigmas) - 1

    def set_anchor(self, anchor: Anchor) -> None:
        self._on_all(lambda network, steps: network.set_anchor(*anchor, self._told.context))

    def sample(self, numbers: Iterable[int], noise: Callable[[int], Tensor]) -> Iterator[LiveBlock]:
        """Sample blocks that follow each other, each from its noise [16, 3, h, w]."""
        for number in numbers:
            block = self._enter(number, noise(number))
            for step in range(self.num_steps):
                block = self._step(self._network, block, step)
                self._on_step(number, step, block.x)
            yield block.finished()

    def begin(self, state: LiveState) -> None:
        """Empty the rings, and let the network see the recent blocks of a state as it saw them."""
        self._on_all(lambda network, steps: network.clear())
        self.set_anchor(state.anchor)
        for block in state.recent:
            self.play_back(block)

    def play_back(self, block: LiveBlock) -> None:
        """Let the network see a finished block as it saw it."""
        heard = self._told.of_block(block.index)

        def show(network: CausalVideo, steps: range) -> None:
            for step in steps:
                self._velocity(network, block.inputs[step], block.index, step, heard)

        self._on_all(show)

    def _on_all(self, work: Callable[[CausalVideo, range], None]) -> None:
        """Do something with every network and its steps."""
        work(self._network, range(self.num_steps))

    def _enter(self, number: int, noise: Tensor) -> Unfinished:
        return Unfinished(number, self._told.of_block(number), noise.float())

    def _step(self, network: CausalVideo, block: Unfinished, step: int) -> Unfinished:
        velocity = self._velocity(network, block.x, block.index, step, block.heard)
        x = block.x.to(velocity.device) + (self._sigmas[step + 1] - self._sigmas[step]) * velocity
        return replace(block, x=x, inputs=(*block.inputs, block.x))

    def _velocity(self, network: CausalVideo, x: Tensor, block: int, step: int, heard: Heard) -> Tensor:
        timestep, distance = self._sigmas[step] * TRAIN_TIMESTEPS, self._told.distance(block, step)
        return network.forward(x, step, timestep, block * BLOCK_LATENTS, distance, *heard)


def live_blocks(
    sampler: LiveSampler,
    state: LiveState,
    num_blocks: int,
    noise: Callable[[int], Tensor],
    *,
    next_anchor: Callable[[LiveState], Anchor] | None = None,
    clip_blocks: int = CLIP_BLOCKS,
    blocks_between_restarts: int = 0,
    known: Callable[[int], LiveBlock | None] = lambda block: None,
) -> Iterator[tuple[LiveBlock, LiveState]]:
    """Yield the blocks from a state up to `num_blocks`, each with the state behind it.

    Args:
        next_anchor: replaces the anchor behind the first clip, once; None keeps it. The state has the blocks of that clip.
        blocks_between_restarts: the rings are emptied and the recent blocks played back whenever so many blocks are through, so that a run
            that goes on there gives the same; 0 for never.
        known: a block that is finished already; it is played back.
    """
    sampler.begin(state)
    first = state.block
    while state.block < num_blocks:
        if blocks_between_restarts and state.block % blocks_between_restarts == 0 and state.block > first:
            sampler.begin(state)
        stop = _next_border(state.block, num_blocks, clip_blocks, blocks_between_restarts)
        for block in _known_and_new(sampler, range(state.block, stop), noise, known):
            state = replace(state, block=state.block + 1, recent=(*state.recent, block)[-RECALLED_BLOCKS:])
            if state.block == clip_blocks and next_anchor is not None:
                state = replace(state, anchor=next_anchor(state))
                if state.block < num_blocks:
                    sampler.set_anchor(state.anchor)
            yield block, state


def _next_border(block: int, num_blocks: int, clip_blocks: int, between_restarts: int) -> int:
    """The block in front of which all steps of the blocks before it are made: the end, another anchor or a restart."""
    restart = block - block % between_restarts + between_restarts if between_restarts else num_blocks
    return min(border for border in (num_blocks, clip_blocks, restart) if border > block)


def _known_and_new(
    sampler: LiveSampler, numbers: range, noise: Callable[[int], Tensor], known: Callable[[int], LiveBlock | None]
) -> Iterator[LiveBlock]:
    """Play back the blocks that are known, which come first, and sample the others."""
    for number in numbers:
        block = known(number)
        if block is None:
            yield from sampler.sample(range(number, numbers.stop), noise)
            return
        sampler.play_back(block)
        yield block


def first_latent_anchor(state: LiveState) -> Anchor:
    """The picture gives way to the first latent that was made; motion stays."""
    return state.anchor._replace(picture_latent=state.recent[0].latents[None, :, :1])
