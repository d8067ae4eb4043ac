"""`doctor --compare` from beginning to end with the tiny models: it proves the calls, and says of the clip that it is noise."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .commands import make_workplace

TINY = (
    *("--model", "wan_s2v_tiny.safetensors", "--text-encoder", "umt5_tiny.safetensors"),
    *("--audio-encoder", "wav2vec2-tiny/model.safetensors", "--vae", "wan_2.1_vae_tiny.safetensors"),
)
SMALL = ("--side", "64", "--steps", "1", "--seconds", "0.5")


def test_tiny_models_agree_and_their_clip_is_noise(tmp_path, comfyui_path, base_directory):
    workplace = make_workplace(tmp_path, comfyui_path, base_directory / "models")
    done = workplace.shell(None, *doctor("--compare", *TINY, *SMALL))
    assert done.returncode == 1, done.stderr
    block = done.stdout
    assert re.search(r"^ok +Model calls +the same function", block, re.MULTILINE)
    assert all(float(number) < 1e-5 for number in re.findall(r"clip (\d\.\de-\d+)", block))
    assert re.search(r"^ok +In bfloat16 +rounding moves", block, re.MULTILINE)
    assert re.search(r"^problem +Picture +it does NOT resemble the portrait", block, re.MULTILINE)
    assert re.search(r"^problem +Mouth +not measured", block, re.MULTILINE)
    assert "verdict: problems: Picture, Mouth" in block
    assert re.search(r"^model: wan_s2v_tiny.safetensors, bf16, [\d,]+ bytes, header [0-9a-f]{16}$", block, re.MULTILINE)
    assert str(tmp_path) not in block
    assert str(Path.home()) not in block
    assert list((workplace.comfyui / "output").glob("*")) == []


def test_what_is_missing_is_named_and_nothing_is_compared(tmp_path, comfyui_path, base_directory):
    workplace = make_workplace(tmp_path, comfyui_path, base_directory / "models")
    done = workplace.shell(None, *doctor("--compare", "--model", "lost.safetensors"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "doctor --compare failed: model files are missing:" in done.stderr
    assert "lost.safetensors  in  models/diffusion_models" in done.stderr


def doctor(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli", "doctor", *arguments]
