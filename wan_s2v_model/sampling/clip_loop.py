"""One clip, then the loop that carries motion from clip to clip."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..conditioning.clip import ClipConditioning, append_history, first_history
from ..conditioning.plan import Plan
from ..constants import LATENT_CHANNELS, MOTION_FRAMES, MOTION_LATENTS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..limits import LARGEST_SEED
from .continuity import Statistics, border_statistics, match_statistics

Encode = Callable[[Tensor], Tensor]  # [T, H, W, 3] pixels in [0, 1] -> [1, 16, F, h, w] normalised latents
Decode = Callable[[Tensor], Tensor]  # the inverse, clamped; may leave out frames of the context in front of a clip
Sample = Callable[[int, ClipConditioning, Tensor], Tensor]  # clip, conditioning, noise [1, 16, F, h, w] -> latents


@dataclass(frozen=True)
class MotionState:
    """What the next clip inherits.

    Attributes:
        history: [73, H, W, 3] newest frames in [0, 1]. motion_latents: [1, 16, 19, h, w], None before a free start.
        anchor: the statistics to which the end of each clip is matched, None without an anchor and before clip 0.
    """

    clip: int
    history: Tensor
    motion_latents: Tensor | None
    anchor: Statistics | None = None


@dataclass(frozen=True)
class ClipResult:
    """A finished clip.

    Attributes:
        latents: [1, 16, F, h, w]. frames: [T, H, W, 3] in [0, 1], cut to what the video shows.
        state: for the next clip; after the last clip its motion latents are those of this clip.
        step_inputs: [blocks, steps, 16, 3, h, w] of live video, what the later steps of each block began with; else None.
    """

    clip: int
    latents: Tensor
    frames: Tensor
    state: MotionState
    step_inputs: Tensor | None = None


def first_state(plan: Plan, encode: Encode) -> MotionState:
    """The state before clip 0: grey history, or the frames to continue from."""
    if plan.history is None:
        return MotionState(0, first_history(plan.height, plan.width), None)
    return MotionState(0, plan.history, encode(plan.history))


def clip_seed(seed: int, clip: int) -> int:
    """Seed of a clip; it wraps round behind the largest one that torch takes."""
    return (seed + clip) % (LARGEST_SEED + 1)


def clip_noise(plan: Plan, clip: int, seed: int) -> Tensor:
    """[1, 16, F, h, w] float32 from a CPU generator seeded with seed + clip, or with the seed of clip 0 where the plan says so."""
    shape = (1, LATENT_CHANNELS, plan.timeline.num_latent_frames, plan.height // SPATIAL_STRIDE, plan.width // SPATIAL_STRIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(clip_seed(seed, plan.continuity.seeded_as(clip))))


def find_anchor(plan: Plan, first_latents: Tensor, decode: Decode) -> Statistics | None:
    """The statistics to which the end of each clip is matched, None without an anchor.

    For latents those of clip 0, which cannot have drifted. For colours those of the picture, decoded as a video is.

    Args:
        first_latents: [1, 16, F, h, w] of clip 0.
    """
    if plan.continuity.colour_strength:
        return border_statistics(decode(plan.ref_latents), MOTION_FRAMES)
    return border_statistics(first_latents[0].movedim(0, -1), MOTION_LATENTS) if plan.continuity.latent_strength else None


def decode_clip(
    plan: Plan, clip: int, latents: Tensor, motion_latents: Tensor | None, decode: Decode, anchor: Statistics | None = None
) -> Tensor:
    """[1, 16, F, h, w] behind their context -> [T, H, W, 3] in [0, 1], without what is dropped at the start of the video.

    What is kept of a dubbed video is its own, in pixels.
    """
    timeline = plan.timeline
    context = plan.ref_latents if motion_latents is None else motion_latents
    decoded = decode(torch.cat([context, latents], dim=2))  # [frames of some context and of the clip, H, W, 3]
    dropped = timeline.dropped_frames if clip == 0 else 0
    frames = decoded[decoded.shape[0] - timeline.frames_per_clip + dropped :]
    if anchor is not None and plan.continuity.colour_strength:
        frames = match_statistics(frames, anchor, plan.continuity.colour_strength, MOTION_FRAMES).clamp_(0, 1)
    elif len(frames) != len(decoded):
        frames = frames.clone()  # without the memory of what is left out
    return frames if plan.dub is None else plan.dub.composite(clip, frames)


def run_clip(plan: Plan, state: MotionState, noise: Tensor, *, sample: Sample, encode: Encode, decode: Decode) -> ClipResult:
    """Sample one clip, decode it behind its context and encode the history for the next one."""
    timeline, clip = plan.timeline, state.clip
    conditioning = plan.conditioning(clip, state.motion_latents)
    if plan.dub is not None:
        conditioning = replace(conditioning, kept=plan.dub.kept(clip, encode))
    latents = sample(clip, conditioning, noise)
    anchor = find_anchor(plan, latents, decode) if clip == 0 else state.anchor
    latents = _match_latents(plan, latents, anchor)
    frames = decode_clip(plan, clip, latents, state.motion_latents, decode, anchor)
    after = replace(state, clip=clip + 1, history=append_history(state.history, frames), anchor=anchor)
    if after.clip < timeline.num_clips:
        after = replace(after, motion_latents=encode(after.history))
    return ClipResult(clip, latents, frames[: timeline.clip_frames(clip)], after)


def _match_latents(plan: Plan, latents: Tensor, anchor: Statistics | None) -> Tensor:
    strength = plan.continuity.latent_strength
    if anchor is None or not strength:
        return latents
    return match_statistics(latents[0].movedim(0, -1), anchor, strength, MOTION_LATENTS).movedim(-1, 0)[None]  # channels last and back


def clip_decoder(decode: Callable[..., Tensor], num_latent_frames: int, warmup: int) -> Decode:
    """For clips behind their context, [1, 16, context + F, h, w]: decodes no more of the context than asked, and gives no frame of it.

    Args:
        decode: of a VAE; is also told how many of the `newest` frames are wanted.
        warmup: latents of the context. The decoder's causal layers have seen no more when the clip begins; with fewer than all 19 its first
            frames differ.
    """

    def decode_clip_alone(latents: Tensor) -> Tensor:
        first = max(0, latents.shape[2] - num_latent_frames - warmup)
        return decode(latents[:, :, first:], newest=TEMPORAL_STRIDE * num_latent_frames)

    return decode_clip_alone


def run_clips(
    plan: Plan,
    state: MotionState,
    seed: int,
    *,
    sample: Sample,
    encode: Encode,
    decode: Decode,
    noise: Callable[[Plan, int, int], Tensor] = clip_noise,
) -> Iterator[ClipResult]:
    """Yield the clips from `state` to the end of the plan."""
    while state.clip < plan.timeline.num_clips:
        result = run_clip(plan, state, noise(plan, state.clip, seed), sample=sample, encode=encode, decode=decode)
        yield result
        state = result.state
