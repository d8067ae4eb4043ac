"""One clip, then the loop that carries motion from clip to clip."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .audio_features import gather_slots
from .conditioning import ClipConditioning, append_history, first_history
from .constants import LATENT_CHANNELS, SPATIAL_STRIDE
from .timeline import Timeline

Encode = Callable[[Tensor], Tensor]  # [T, H, W, 3] pixels in [0, 1] -> [1, 16, F, h, w] normalised latents
Decode = Callable[[Tensor], Tensor]  # the inverse, clamped
Sample = Callable[[int, ClipConditioning, Tensor], Tensor]  # clip, conditioning, noise [1, 16, F, h, w] -> latents


@dataclass(frozen=True)
class Plan:
    """Everything that decides a video except the model, the prompt and the sampler; CPU tensors only.

    Attributes:
        audio_features: [layers, channels, frames] at 16 fps. waveform: [C, T], the sound that will be played.
        ref_latents: [1, 16, 1, h, w] normalised. pose_latents: one [1, 16, F, h, w] per clip, or None.
        history: [73, height, width, 3] frames before clip 0, or None when it starts freely.
    """

    timeline: Timeline
    height: int
    width: int
    audio_features: Tensor
    waveform: Tensor
    sample_rate_hz: int
    ref_latents: Tensor
    pose_latents: tuple[Tensor, ...] | None = None
    history: Tensor | None = None

    def conditioning(self, clip: int, motion_latents: Tensor | None) -> ClipConditioning:
        return ClipConditioning(
            audio_embedding=gather_slots(self.audio_features, self.timeline.audio_frames(clip)),
            ref_latents=self.ref_latents,
            motion_latents=motion_latents,
            pose_latents=None if self.pose_latents is None else self.pose_latents[clip],
        )


@dataclass(frozen=True)
class MotionState:
    """What the next clip inherits.

    Attributes:
        history: [73, H, W, 3] newest frames in [0, 1]. motion_latents: [1, 16, 19, h, w], None before a free start.
    """

    clip: int
    history: Tensor
    motion_latents: Tensor | None


@dataclass(frozen=True)
class ClipResult:
    """A finished clip.

    Attributes:
        latents: [1, 16, F, h, w]. frames: [T, H, W, 3] in [0, 1], cut to what the video shows.
        state: for the next clip; after the last clip its motion latents are those of this clip.
    """

    clip: int
    latents: Tensor
    frames: Tensor
    state: MotionState


def first_state(plan: Plan, encode: Encode) -> MotionState:
    """The state before clip 0: grey history, or the frames to continue from."""
    if plan.history is None:
        return MotionState(0, first_history(plan.height, plan.width), None)
    return MotionState(0, plan.history, encode(plan.history))


def clip_seed(seed: int, clip: int) -> int:
    """Seed of a clip; it wraps round behind the largest one that torch takes."""
    return (seed + clip) % 2**64


def clip_noise(plan: Plan, clip: int, seed: int) -> Tensor:
    """[1, 16, F, h, w] float32 from a CPU generator seeded with seed + clip."""
    shape = (1, LATENT_CHANNELS, plan.timeline.num_latent_frames, plan.height // SPATIAL_STRIDE, plan.width // SPATIAL_STRIDE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(clip_seed(seed, clip)))


def decode_clip(plan: Plan, clip: int, latents: Tensor, motion_latents: Tensor | None, decode: Decode) -> Tensor:
    """[1, 16, F, h, w] behind their context -> [T, H, W, 3] in [0, 1], without what is dropped at the start of the video."""
    timeline = plan.timeline
    context = plan.ref_latents if motion_latents is None else motion_latents
    decoded = decode(torch.cat([context, latents], dim=2))  # [frames of context and clip, H, W, 3]
    dropped = timeline.dropped_frames if clip == 0 else 0
    return decoded[decoded.shape[0] - timeline.frames_per_clip + dropped :].clone()


def run_clip(plan: Plan, state: MotionState, noise: Tensor, *, sample: Sample, encode: Encode, decode: Decode) -> ClipResult:
    """Sample one clip, decode it behind its context and encode the history for the next one."""
    timeline, clip = plan.timeline, state.clip
    latents = sample(clip, plan.conditioning(clip, state.motion_latents), noise)
    frames = decode_clip(plan, clip, latents, state.motion_latents, decode)
    after = replace(state, clip=clip + 1, history=append_history(state.history, frames))
    if after.clip < timeline.num_clips:
        after = replace(after, motion_latents=encode(after.history))
    return ClipResult(clip, latents, frames[: timeline.clip_frames(clip)], after)


def shorten_context(latents: Tensor, num_latent_frames: int, warmup: int) -> Tensor:
    """Leave the newest `warmup` latents in front of the clip at the end: [1, 16, context + F, h, w] -> [1, 16, <= warmup + F, h, w].

    The decoder's causal layers then have seen less when the clip begins; with fewer than all 19 its first frames differ.
    """
    return latents[:, :, max(0, latents.shape[2] - num_latent_frames - warmup) :]


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
