"""The first command of the README: a video with random weights, made on the spot."""

from __future__ import annotations

import json
import re
import sys

from .commands import FPS, SECONDS, make_workplace
from .graphs import QUICK_START, change
from .rendering import open_video


def test_demo(tmp_path, comfyui_path, base_directory):
    workplace = make_workplace(tmp_path, comfyui_path, base_directory / "models")
    workplace.write_graph(change(json.loads(QUICK_START.read_text(encoding="utf-8")), duration=SECONDS))  # the users' own, but short
    done = workplace.shell(
        None, sys.executable, "scripts/run_demo.py", "--steps", "3", "--prompt", "A man talks.", "--output", "out/demo.mp4"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^video made in [\d.]+ s: out/demo\.mp4\nRANDOM WEIGHTS", done.stdout, re.MULTILINE)
    assert "step 0/3" in done.stderr
    video = open_video(workplace.folder / "out" / "demo.mp4")
    assert video.num_frames == round(SECONDS * FPS)
    assert [path.name for path in (workplace.folder / ".demo" / "output" / "video").iterdir()] == ["wan_s2v_random_weights_00001_.mp4"]
    prompts = {node["class_type"]: node["inputs"] for node in video.stored_json("prompt").values()}
    assert prompts["WanS2VTextEncode"]["prompt"] == "A man talks."
    assert prompts["WanS2VModelLoader"]["model_name"] == "wan_s2v_tiny.safetensors"
