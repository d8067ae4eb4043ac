"""Live video: blocks of three latents, sampled one behind the other without an end, by few Euler steps each.

Source of the rules: Alibaba-Quark/LiveAvatar (Apache-2.0), written anew. A clip is four blocks; it only decides noise and the anchor.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS, MOTION_FRAMES, MOTION_LATENTS, TEMPORAL_STRIDE, TRAIN_TIMESTEPS
from ..transformer.causal import BLOCK_LATENTS, WINDOW_LATENTS
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


class Network(Protocol):
    """What a `CausalVideo` does."""

    def clear(self) -> None: ...

    def set_anchor(self, picture_latent: Tensor, motion_latents: Tensor, context: Tensor) -> None: ...

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
    ) -> Tensor: ...


@dataclass(frozen=True)
class Told:
    """What the network is told, beside the anchor.

    Attributes:
        context: [1, L, text_dim]. sound: of a block, [layers, audio_dim, 12]. pose: of a block, [1, 16, 3, h, w] or None.
        distance: of the picture, by block and step. regions: of several speakers in a block, whose sounds are then stacked, or None.
    """

    context: Tensor
    sound: Callable[[int], Tensor]
    pose: Callable[[int], Tensor | None]
    distance: Callable[[int, int], int]
    regions: Callable[[int], Regions | None] = lambda block: None

    def of_block(self, block: int) -> tuple[Tensor, Tensor | None, Regions | None]:
        """Sound, pose and regions, the same in every step."""
        return self.sound(block), self.pose(block), self.regions(block)


@dataclass(frozen=True)
class LiveBlock:
    """A finished block: latents [16, 3, h, w] and what each step was given, of the same shape; float32 on the CPU."""

    index: int
    latents: Tensor
    inputs: tuple[Tensor, ...]


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
        sigmas: noise levels, from 1 to 0. on_step: called behind each step with block, step and x [16, 3, h, w] so far.
    """

    def __init__(
        self, network: Network, told: Told, sigmas: Sequence[float], on_step: Callable[[int, int, Tensor], None] = lambda *_: None
    ):
        self._network, self._told, self._sigmas, self._on_step = network, told, sigmas, on_step

    @property
    def num_steps(self) -> int:
        return len(self._sigmas) - 1

    def set_anchor(self, anchor: Anchor) -> None:
        self._network.set_anchor(*anchor, self._told.context)

    def sample(self, block: int, noise: Tensor) -> LiveBlock:
        """Sample a block from its noise [16, 3, h, w]."""
        told, inputs, x = self._told.of_block(block), [], noise.float()
        for step in range(self.num_steps):
            inputs.append(x)
            velocity = self._velocity(x, block, step, told)
            x = x.to(velocity.device) + (self._sigmas[step + 1] - self._sigmas[step]) * velocity
            self._on_step(block, step, x)
        return LiveBlock(block, x.cpu(), tuple(given.cpu() for given in inputs))

    def begin(self, state: LiveState) -> None:
        """Empty the rings, and let the network see the recent blocks of a state as it saw them."""
        self._network.clear()
        self.set_anchor(state.anchor)
        for block in state.recent:
            self.play_back(block)

    def play_back(self, block: LiveBlock) -> None:
        """Let the network see a finished block as it saw it."""
        told = self._told.of_block(block.index)
        for step, x in enumerate(block.inputs):
            self._velocity(x, block.index, step, told)

    def _velocity(self, x: Tensor, block: int, step: int, told: tuple[Tensor, Tensor | None, Regions | None]) -> Tensor:
        timestep, distance = self._sigmas[step] * TRAIN_TIMESTEPS, self._told.distance(block, step)
        return self._network.forward(x, step, timestep, block * BLOCK_LATENTS, distance, *told)


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
        block = known(state.block)
        if block is None:
            block = sampler.sample(state.block, noise(state.block))
        else:
            sampler.play_back(block)
        state = replace(state, block=state.block + 1, recent=(*state.recent, block)[-RECALLED_BLOCKS:])
        if state.block == clip_blocks and next_anchor is not None:
            state = replace(state, anchor=next_anchor(state))
            if state.block < num_blocks:
                sampler.set_anchor(state.anchor)
        yield block, state


def first_latent_anchor(state: LiveState) -> Anchor:
    """The picture gives way to the first latent that was made; motion stays."""
    return state.anchor._replace(picture_latent=state.recent[0].latents[None, :, :1])
