"""Fill a ComfyUI base directory with the tiny model set and the sample inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REAL_NAMES = {  # tiny file -> name under which the workflows look for it
    "diffusion_models/wan_s2v_tiny.safetensors": "wan2.2_s2v_14B_bf16.safetensors",
    "text_encoders/umt5_tiny.safetensors": "umt5_xxl_fp16.safetensors",
    "audio_encoders/wav2vec2-tiny/model.safetensors": "wav2vec2_large_english_fp16.safetensors",
    "vae/wan_2.1_vae_tiny.safetensors": "wan_2.1_vae.safetensors",
    "loras/tiny_lightx2v.safetensors": "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
    "upscale_models/tiny_compact_x4.safetensors": "RealESRGAN_x4plus.safetensors",
    "frame_interpolation/tiny_rife.safetensors": "film_net_fp16.safetensors",
}
TINY_FILES = frozenset(name.split("/", 1)[1] for name in REAL_NAMES)  # as the loaders list them


def fill_base_directory(base: Path, *, real_names: bool = False) -> None:
    """Make the tiny models and copy the samples to the input folder.

    Args:
        base: made by `prepare_base_directory`.
        real_names: also copy the models to the names that the shipped workflows use.
    """
    models = base / "models"
    make_tiny_models(models)
    for tiny, name in REAL_NAMES.items() if real_names else ():
        shutil.copy(models / tiny, models / tiny.split("/")[0] / name)
    for sample in (ROOT / "samples").iterdir():
        shutil.copy(sample, base / "input")


def tiny_file(folder: str) -> str:
    """The tiny model of one of ComfyUI's model folders, as the loaders list it."""
    return next(name.split("/", 1)[1] for name in REAL_NAMES if name.startswith(f"{folder}/"))


def make_tiny_models(models: Path, layouts: Sequence[str] = ()) -> None:
    """Write the tiny set into a models folder, and those layouts (names in scripts/tiny_layouts.py) beside it."""
    options = ["--layout", *layouts] if layouts else []
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_tiny_models.py"), str(models), *options], check=True)
