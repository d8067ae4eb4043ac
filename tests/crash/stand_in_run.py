"""A small run with networks that take no time, whose every clip depends on all that decides it."""

from pathlib import Path

import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline

NUM_CLIPS, FRAMES_PER_CLIP = 5, 12
HEIGHT, WIDTH = 48, 64
STEPS = 3
SEED = 7
FINGERPRINT = {"seed": SEED, "prompt": "a woman sings"}


def make_plan() -> Plan:
    num_frames = NUM_CLIPS * FRAMES_PER_CLIP - 3
    timeline = plan_timeline(num_frames * 1000, 16_000, num_frames * 1000, frames_per_clip=FRAMES_PER_CLIP)
    generator = torch.Generator().manual_seed(0)
    return Plan(
        timeline=timeline,
        height=HEIGHT,
        width=WIDTH,
        audio_features=torch.randn(2, 3, timeline.num_audio_frames, generator=generator),
        waveform=torch.randn(1, num_frames * 1000, generator=generator),
        sample_rate_hz=16_000,
        ref_latents=torch.randn(1, 16, 1, HEIGHT // 8, WIDTH // 8, generator=generator),
    )


def sample(clip, conditioning, noise):
    """Latents in which everything that the model is told leaves a trace."""
    for step in range(STEPS):
        motion = 0 if conditioning.motion_latents is None else conditioning.motion_latents.mean(dim=2, keepdim=True)
        noise = (noise + motion + conditioning.audio_embedding.mean() + step).sin()
    return noise


def decode(latents):
    values = latents.mean(dim=1)[0]  # [F, h, w]
    frames = torch.cat([values[:1], values[1:].repeat_interleave(4, 0)]).sigmoid()
    return frames.repeat_interleave(8, 1).repeat_interleave(8, 2)[..., None].expand(-1, -1, -1, 3).clone()


def encode(frames):
    values = frames[::4, ::8, ::8].mean(dim=-1)  # [F, h, w]
    return values.expand(1, 16, -1, -1, -1).clone()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
