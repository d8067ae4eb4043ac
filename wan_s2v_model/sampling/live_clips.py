"""A live video as clips: its blocks, decoded as they come, and how a run that was cut off goes on with the same bytes.

The rings of a run are too large to be kept. Instead a run with a name empties them every `restart_clips` clips, finished or cut off, and
lets the network see the newest blocks again as it saw them: from there on the result depends on nothing older. A run that goes on begins at
the last such place and plays back what it has stored since.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..conditioning.clip import ClipConditioning
from ..conditioning.plan import Plan
from ..constants import LIVE_FPS, SPATIAL_STRIDE
from ..transformer.causal import BLOCK_LATENTS
from ..transformer.speakers import Regions
from .clip_loop import ClipResult, Encode, MotionState
from .live import (
    BLOCK_FRAMES,
    CLIP_BLOCKS,
    CLIP_FRAMES,
    FIRST_LATENT,
    PRIMING_LATENTS,
    RECALLED_BLOCKS,
    Anchor,
    BlockNoise,
    Heard,
    LiveBlock,
    LiveSampler,
    LiveState,
    Told,
    first_anchor,
    first_latent_anchor,
    live_blocks,
    picture_distance,
)

RESTART_CLIPS = 32  # 61 seconds
DECODER_BLOCKS = 14  # behind one more latent: no frame depends on what lies before

Decoder = Callable[[Tensor], Tensor]  # the next latents [1, 16, F, h, w] of a video -> frames [T, H, W, 3] in [0, 1]


class StoredClips(Protocol):
    """The finished clips of a run; a RunStore is one."""

    num_finished: int

    def read_latents(self, index: int) -> Tensor: ...

    def read_step_inputs(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class LiveJob:
    """A live video, beside the network that makes it.

    Attributes:
        anchor: one of LIVE_ANCHORS. steps: per block. restart_clips: between two places where the rings are emptied; 0 for never.
    """

    plan: Plan
    seed: int
    anchor: str = FIRST_LATENT
    steps: int = 4
    restart_clips: int = 0

    @property
    def num_blocks(self) -> int:
        """Those of which a frame is seen, and one of each clip."""
        timeline = self.plan.timeline
        seen = -(-(timeline.num_frames + timeline.dropped_frames) // BLOCK_FRAMES)
        return max(seen, (timeline.num_clips - 1) * CLIP_BLOCKS + 1)

    def blocks_of(self, clip: int) -> range:
        return range(clip * CLIP_BLOCKS, min((clip + 1) * CLIP_BLOCKS, self.num_blocks))

    def restart_before(self, clip: int) -> int:
        """The clip at which a run has to begin that goes on at `clip`."""
        return clip - clip % self.restart_clips if self.restart_clips else 0

    def blocks_ahead(self, finished_clips: int = 0) -> tuple[int, int]:
        """How many blocks are still to be made behind so many clips, and how many are played back for them.

        Those are the recent ones at every restart, and what is stored behind the last one.
        """
        begin, stored = (min(clip * CLIP_BLOCKS, self.num_blocks) for clip in (self.restart_before(finished_clips), finished_clips))
        restarts = range(begin, self.num_blocks, self.restart_clips * CLIP_BLOCKS or self.num_blocks)
        return self.num_blocks - stored, stored - begin + sum(min(block, RECALLED_BLOCKS) for block in restarts)

    def told(self, context: Tensor) -> Told:
        """What the network is told of each block; context: [1, L, text_dim]."""

        @lru_cache(maxsize=1)
        def conditioning(clip: int) -> ClipConditioning:
            return self.plan.conditioning(clip, None)

        def of_block(block: int) -> Heard:
            clip, part = divmod(block, CLIP_BLOCKS)
            return _part_of(conditioning(clip), part)

        return Told(context, of_block, lambda block, step: picture_distance(self.seed, block, step))

    def noise(self) -> BlockNoise:
        return BlockNoise(self.plan.height // SPATIAL_STRIDE, self.plan.width // SPATIAL_STRIDE, self.seed)

    def first_anchor(self, encode: Encode) -> Anchor:
        assert self.plan.picture is not None
        return first_anchor(self.anchor, self.plan.picture, encode)


def _part_of(clip: ClipConditioning, part: int) -> Heard:
    """What a block is told of what its clip is told."""
    frames, latents = (slice(part * length, (part + 1) * length) for length in (BLOCK_FRAMES, BLOCK_LATENTS))
    return Heard(
        clip.audio_embedding[0, ..., frames],
        None if clip.pose_latents is None else clip.pose_latents[:, :, latents],
        None if clip.hearing is None else Regions(clip.hearing[:, latents]),
    )


def require_live(plan: Plan) -> None:
    """Raise ValueError where a plan holds what means nothing in live video."""
    if plan.dub is None:
        plan.require_rate(LIVE_FPS, "Sample Video Live (Wan S2V)")
    refused = {
        "dub: a live video is made from a picture. Dub a video with Sample Video (Wan S2V), at frame_rate 16": plan.dub is not None,
        "previous_frames, or first_frame 'from picture': a live video begins with the picture itself, and remembers by other means": (
            plan.history is not None
        ),
        "start_percent and end_percent of Pose: the few steps all see the pose. Set them to 0 and 1": plan.pose_steps != (0.0, 1.0),
        "audio_history 'real': every block hears its own sound alone, as the model was trained. Set it to 'first frame'": (
            plan.real_audio_history
        ),
        f"clips of {plan.timeline.frames_per_clip} frames: they have {CLIP_FRAMES}": plan.timeline.frames_per_clip != CLIP_FRAMES,
        "a plan without its picture: prepare it again": plan.picture is None,
    }
    found = [what for what, is_refused in refused.items() if is_refused]
    if found:
        raise ValueError(f"Sample Video Live (Wan S2V) cannot use {'; nor '.join(found)}.")


def live_clips(
    job: LiveJob,
    sampler: LiveSampler,
    stored: StoredClips,
    *,
    encode: Encode,
    open_decoder: Callable[[], Decoder],
    on_frames: Callable[[int, Tensor], None] = lambda clip, frames: None,
) -> Iterator[ClipResult]:
    """Yield the clips that are not stored yet.

    Args:
        sampler: of the job's `told`. open_decoder: gives one that has seen nothing.
        on_frames: called behind each block with its clip and the frames of it that are seen.
    """
    first, begin = stored.num_finished, job.restart_before(stored.num_finished)
    noise, known = job.noise(), _finished_blocks(job, stored, job.noise())
    start = job.first_anchor(encode)
    state = LiveState(begin * CLIP_BLOCKS, start)
    if begin:
        if job.anchor == FIRST_LATENT:
            state = LiveState(state.block, first_latent_anchor(LiveState(0, start, (_required(known(0)),))))
        recent = range(max(0, state.block - RECALLED_BLOCKS), state.block)
        state = LiveState(state.block, state.anchor, tuple(_required(known(block)) for block in recent))
    decode = _decoder_behind(first, stored, start, open_decoder)
    blocks = live_blocks(
        sampler,
        state,
        job.num_blocks,
        noise,
        next_anchor=first_latent_anchor if job.anchor == FIRST_LATENT else None,
        blocks_between_restarts=job.restart_clips * CLIP_BLOCKS,
        known=known,
    )
    made: list[tuple[LiveBlock, Tensor]] = []
    for block, _ in blocks:
        clip = block.index // CLIP_BLOCKS
        if clip < first:
            continue
        frames = _seen(job, block.index, decode(block.latents[None]))
        on_frames(clip, frames)
        made.append((block, frames))
        if block.index == job.blocks_of(clip)[-1]:
            yield _result(clip, made)
            made = []


def live_frames(
    job: LiveJob, stored: StoredClips, first_clip: int, encode: Encode, open_decoder: Callable[[], Decoder]
) -> Iterator[Tensor]:
    """What the decoder gave for each stored clip from the first one wanted, [T, H, W, 3] in [0, 1]."""
    decode = _decoder_behind(first_clip, stored, job.first_anchor(encode), open_decoder)
    for clip in range(first_clip, job.plan.timeline.num_clips):
        parts = stored.read_latents(clip)[None].split(BLOCK_LATENTS, dim=2)
        yield torch.cat([_seen(job, block, decode(part)) for block, part in zip(job.blocks_of(clip), parts, strict=True)])


def _finished_blocks(job: LiveJob, stored: StoredClips, noise: BlockNoise) -> Callable[[int], LiveBlock | None]:
    """The blocks of the stored clips; those of one clip are in memory. The noise, which is their first input, is drawn again."""

    @lru_cache(maxsize=1)
    def of_clip(clip: int) -> list[LiveBlock]:
        latents, inputs = stored.read_latents(clip).split(BLOCK_LATENTS, dim=1), stored.read_step_inputs(clip)
        return [
            LiveBlock(block, made, (noise(block), *later)) for block, made, later in zip(job.blocks_of(clip), latents, inputs, strict=True)
        ]

    def find(block: int) -> LiveBlock | None:
        clip, part = divmod(block, CLIP_BLOCKS)
        return of_clip(clip)[part] if clip < stored_clips else None

    stored_clips = stored.num_finished
    return find


def _required(block: LiveBlock | None) -> LiveBlock:
    assert block is not None
    return block


def _decoder_behind(first: int, stored: StoredClips, anchor: Anchor, open_decoder: Callable[[], Decoder]) -> Decoder:
    """A decoder that has seen what lies before a clip, as far as the clip depends on it, in the parts in which it saw it."""
    decode, blocks = open_decoder(), first * CLIP_BLOCKS
    needed = min(blocks, DECODER_BLOCKS)
    clips = range(max(0, first - (DECODER_BLOCKS + CLIP_BLOCKS) // CLIP_BLOCKS), first)
    before = torch.cat([stored.read_latents(clip) for clip in clips], dim=1)[None] if clips else None
    if blocks <= DECODER_BLOCKS:
        decode(anchor.motion_latents[:, :, :PRIMING_LATENTS])
    elif before is not None:
        decode(before[:, :, -needed * BLOCK_LATENTS - 1 : -needed * BLOCK_LATENTS])
    for part in [] if before is None else before[:, :, -needed * BLOCK_LATENTS :].split(BLOCK_LATENTS, dim=2):
        decode(part)
    return decode


def _seen(job: LiveJob, block: int, frames: Tensor) -> Tensor:
    """Without the first frames of the video, and those behind its end."""
    timeline = job.plan.timeline
    begin = block * BLOCK_FRAMES - timeline.dropped_frames  # in the video
    return frames[max(0, -begin) : timeline.num_frames - begin]


def _result(clip: int, made: list[tuple[LiveBlock, Tensor]]) -> ClipResult:
    blocks, frames = [block for block, _ in made], torch.cat([frames for _, frames in made])
    inputs = torch.stack([torch.stack(block.inputs[1:]) for block in blocks])
    latents = torch.cat([block.latents for block in blocks], dim=1)
    return ClipResult(clip, latents[None], frames, MotionState(clip + 1, frames[-1:], None), inputs)
