"""Cancel at each stage that `test_interrupt.py` leaves out, in the middle of work that would go on for long; nothing stays behind.

How soon each ended is printed; WAN_S2V_CANCEL_S=5 bounds it, for a machine that is not busy. docs/reliability.md has the figures.
"""

from __future__ import annotations

import json
import shutil

import pytest

from .graphs import ROOT, Prompt, add, change, find, inputs_of, quick_start, shrink
from .test_interrupt import temporary_folders

LONG_S = 20.0


def template(name: str, **changes) -> Prompt:
    """A shipped workflow on the tiny set."""
    return change(shrink(json.loads((ROOT / "docs" / "api" / f"wan_s2v_{name}.json").read_text(encoding="utf-8"))), **changes)


def long_sound(prompt: Prompt, seconds: float) -> Prompt:
    encode = inputs_of(prompt, "WanS2VAudioEncode")
    encode.update(audio=[add(prompt, "StandInAudio", kind="tone", seconds=seconds), 0], duration=0.0)
    return prompt


def listening() -> tuple[Prompt, dict]:
    prompt = long_sound(quick_start(filename_prefix="stages/x"), 3600.0)
    return prompt, {"at_node": find(prompt, "WanS2VAudioEncode")}


def one_large_clip() -> Prompt:
    size = {"width": 256, "height": 256, "frames_per_clip": 80}
    return long_sound(quick_start(filename_prefix="stages/x", steps=1, **size), LONG_S)


def decoding() -> tuple[Prompt, dict]:
    return one_large_clip(), {"at_text": "decoding"}


def encoding() -> tuple[Prompt, dict]:
    return one_large_clip(), {"at_text": "encoding"}


def saving() -> tuple[Prompt, dict]:
    prompt: Prompt = {}
    images = [add(prompt, "StandInImages", count=150, width=512, height=512), 0]
    settings = {"filename_prefix": "stages/x", "format": "mp4 (h265)", "quality": 1, "fps": 16.0}
    return prompt, {"at_node": add(prompt, "WanS2VSaveVideo", images=images, **settings)}


def speaking() -> tuple[Prompt, dict]:
    prompt = quick_start(filename_prefix="stages/x", duration=0.75)
    node = add(prompt, "WanS2VTextToSpeech", text="One long sentence follows another one here. " * 4000, voice="espeak-ng")
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [node, 0]
    return prompt, {"at_node": node}


def live() -> tuple[Prompt, dict]:
    prompt = long_sound(template("live", filename_prefix="stages/x"), LONG_S)
    return prompt, {"when": lambda step: step.node == find(prompt, "WanS2VLiveSampler") and step.value > 2}


def dubbing() -> tuple[Prompt, dict]:
    prompt = long_sound(template("dub", filename_prefix="stages/x", width=64), LONG_S)
    return prompt, {"when": lambda step: step.node == find(prompt, "WanS2VSampler") and step.value >= 1}


STAGES = {
    "WanS2VAudioEncode": [listening],
    "WanS2VSampler": [decoding, encoding, dubbing],
    "WanS2VSaveVideo": [saving],
    "WanS2VTextToSpeech": [speaking],
    "WanS2VLiveSampler": [live],
}


@pytest.mark.parametrize(("node_type", "stage"), [(node, stage) for node, stages in STAGES.items() for stage in stages])
def test_cancel_ends_the_prompt_and_leaves_nothing(node_type, stage, renderer):
    if stage is speaking and not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    prompt, moment = stage()
    files, folders = renderer.output_files(), temporary_folders(renderer)
    assert renderer.cancel(prompt, **moment).node_type == node_type
    assert renderer.output_files() == files
    assert temporary_folders(renderer) <= folders
