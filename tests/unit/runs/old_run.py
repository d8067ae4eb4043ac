"""Inputs of the run in `data/old_run`: networks that take no time, a picture of 8x8 pixels, and all that a fingerprint looks at."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

drawn_as_then = pytest.mark.skipif(sys.platform == "win32", reason="PyTorch draws other numbers on Windows, in their last bits")
NUM_CLIPS, FRAMES_PER_CLIP, NUM_OLD_CLIPS = 5, 12, 2
HEIGHT = WIDTH = 8
SEED = 7
FRAME_SAMPLES = 1000  # at 16 kHz and 16 fps
WRITTEN_NS = 1_700_000_000_000_000_000  # time of change of the model file


@dataclass(frozen=True)
class Settings:
    steps: int = 40
    cfg: float = 4.5
    shift: float = 3.0
    solver: str = "unipc"
    sampler: object = None
    sigmas: torch.Tensor | None = None
    cfg_start: float = 0.0
    cfg_end: float = 1.0
    vae_warmup: int = 19
    audio: object = None
    step_cache: object = None


def make_plan(plan_class, plan_timeline):
    """The plan; its class and its timeline are those of the code that makes the run."""
    num_frames = NUM_CLIPS * FRAMES_PER_CLIP - 3
    timeline = plan_timeline(num_frames * FRAME_SAMPLES, 16_000, num_frames * FRAME_SAMPLES, frames_per_clip=FRAMES_PER_CLIP)
    generator = torch.Generator().manual_seed(0)
    return plan_class(
        timeline=timeline,
        height=HEIGHT,
        width=WIDTH,
        audio_features=torch.randn(2, 3, timeline.num_audio_frames, generator=generator),
        waveform=torch.randn(1, num_frames * FRAME_SAMPLES, generator=generator),
        sample_rate_hz=16_000,
        ref_latents=torch.randn(1, 16, 1, HEIGHT // 8, WIDTH // 8, generator=generator),
    )


def make_inputs(folder: Path, plan):
    """What `run_fingerprint` is given, with a model file in the folder."""
    file = folder / "wan_s2v.safetensors"
    file.write_bytes(b"weights")
    os.utime(file, ns=(WRITTEN_NS, WRITTEN_NS))
    options = {"weight_dtype": "bf16", "precision": "official", "attention": "auto"}
    attached = {"model_options": {"transformer_options": {}}, "wrappers": {}}
    attached["object_patches"] = {"model_sampling": SimpleNamespace(shift=5.0)}
    lora = SimpleNamespace(weights=(torch.full((4, 2), 0.5), torch.ones(2, 4), 2.0, None))
    patches = {"diffusion_model.blocks.0.self_attn.q.weight": [(0.8, lora, 1.0, None, None)]}
    network = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(network.bias, 1.0)
    return {
        "model": SimpleNamespace(cached_patcher_init=(None, (str(file), options)), patches=patches, model=network, **attached),
        "positive": [[torch.ones(1, 5, 8), {}]],
        "negative": [[torch.zeros(1, 5, 8), {}]],
        "plan": plan,
        "settings": Settings(),
        "seed": SEED,
        "vae": SimpleNamespace(vae_dtype=torch.float32, first_stage_model=network),
    }


def sample(clip, conditioning, noise):
    """Latents in which everything that the model is told leaves a trace, in arithmetic that every processor rounds alike."""
    motion = 0 if conditioning.motion_latents is None else conditioning.motion_latents[:, :, -1:]
    return noise / 2 + motion / 4 + conditioning.audio_embedding[0, 0, 0, 0] / 8


def decode(latents):
    values = latents[0, 0]  # [F, h, w]
    frames = torch.cat([values[:1], values[1:].repeat_interleave(4, 0)]).clamp(-1, 1) / 2 + 0.5
    return frames.repeat_interleave(8, 1).repeat_interleave(8, 2)[..., None].expand(-1, -1, -1, 3).clone()


def encode(frames):
    return frames[::4, ::8, ::8, 0].expand(1, 16, -1, -1, -1).clone()
