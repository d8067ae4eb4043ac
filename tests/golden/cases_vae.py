"""Kind `vae`: Wan2.1 VAE through ComfyUI, which is how the pack uses it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from torch import Tensor

from .case import Case, Measured, Row
from .comfyui import comfy_bridge

TOLERANCE = 2e-5


def replay(case: Case) -> Iterator[Row]:
    vae = load_vae(_vae_file(case))
    if "video_u8" in case.tensors:
        frames = to_frames(case.input("video_u8").float() / 127.5 - 1)
        measured = {"latent": comfy_bridge().encode_pixels(vae, frames)[0]}
    else:
        measured = {"video": to_video(comfy_bridge().decode_latents(vae, case.input("latent")[None]))}
    yield from case.compare({name: Measured(value, TOLERANCE) for name, value in measured.items()})


def to_frames(video: Tensor) -> Tensor:
    """The reference's [3, T, H, W] in [-1, 1] -> ComfyUI's [T, H, W, 3] in [0, 1]."""
    return (video.movedim(0, -1) + 1) / 2


def to_video(frames: Tensor) -> Tensor:
    """ComfyUI's [T, H, W, 3] in [0, 1] -> the reference's [3, T, H, W] in [-1, 1]."""
    return (frames * 2 - 1).movedim(-1, 0)


def _vae_file(case: Case) -> Path:
    if "vae_file" in case.metadata:
        return case.path("vae_file")
    files = sorted(case.root.glob("*vae*.safetensors"))
    if len(files) != 1:
        raise LookupError(f"the metadata vae_file is missing, and there are {len(files)} *vae*.safetensors to choose from")
    return files[0]


@cache
def load_vae(path: Path):
    return comfy_bridge().load_vae(str(path), "fp32")
