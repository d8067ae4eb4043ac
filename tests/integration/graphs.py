"""Prompts in API format for the tests: the shipped workflows with the tiny model set and small settings."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from wan_s2v_pack.cli.models.files import REAL_NAMES

Prompt = dict[str, dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]
QUICK_START = ROOT / "cli" / "workflows" / "quick_start.json"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
TINY_LORA = "tiny_lightx2v.safetensors"
TINY_FILES = {name: path.split("/", 1)[1] for name, path in REAL_NAMES.items()}
SIZE = 64  # px; the smallest
FILM_SIZE = (384, 384)  # of sample_film.mp4
DUB = "Dub a video, lip sync (Wan S2V)"  # the template whose video keeps the size of its film
FRAMES_PER_CLIP = 16
NUM_FRAMES = 12  # one clip, not full
TWO_CLIPS = {"duration": 1.5}  # 24 frames: 13 + 11
THREE_CLIPS = {"duration": 2.5}  # 40 frames: 13 + 16 + 11
EXACT = {"quality": 1}  # within a level or two, and the same bytes each time
SMALL = {
    "WanS2VAudioEncode": {"duration": NUM_FRAMES / 16},
    "WanS2VPrepare": {"size": "custom", "size.width": SIZE, "size.height": SIZE, "frames_per_clip": FRAMES_PER_CLIP},
    "WanS2VSampler": {"steps": 2},
}


def quick_start(**changes: Any) -> Prompt:
    """The quick-start workflow on the tiny set; `changes` go to whichever node has an input of that name."""
    return change(shrink(json.loads(QUICK_START.read_text(encoding="utf-8"))), **changes)


def shrink(prompt: Prompt) -> Prompt:
    """Replace model files, sizes and steps by tiny ones."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        inputs = node["inputs"]
        for name, value in inputs.items():
            if isinstance(value, str):
                inputs[name] = TINY_FILES.get(value, value)
        inputs.update(SMALL.get(node["class_type"], {}))
    return prompt


def change(prompt: Prompt, **changes: Any) -> Prompt:
    """Set inputs by name; each name must belong to exactly one node. What a choice brings is named without it: width for size.width."""
    for name, value in changes.items():
        owners = [(node["inputs"], key) for node in prompt.values() for key in node["inputs"] if key.rpartition(".")[2] == name]
        assert len(owners) == 1, f"{len(owners)} nodes have an input {name}"
        ((inputs, key),) = owners
        inputs[key] = value
    return prompt


def find(prompt: Prompt, class_type: str) -> str:
    """The id of the only node of a type."""
    (node_id,) = (key for key, node in prompt.items() if node["class_type"] == class_type)
    return node_id


def inputs_of(prompt: Prompt, class_type: str) -> dict[str, Any]:
    return prompt[find(prompt, class_type)]["inputs"]


def add(prompt: Prompt, class_type: str, **inputs: Any) -> str:
    """Add a node and return its id."""
    node_id = str(max(map(int, prompt), default=0) + 1)
    prompt[node_id] = {"class_type": class_type, "inputs": inputs}
    return node_id


def patch_model(prompt: Prompt, class_type: str, **inputs: Any) -> str:
    """Put a MODEL -> MODEL node in front of the sampler."""
    sampler = inputs_of(prompt, "WanS2VSampler")
    node_id = add(prompt, class_type, model=sampler["model"], **inputs)
    sampler["model"] = [node_id, 0]
    return node_id


def add_pose(prompt: Prompt, **inputs: Any) -> None:
    """Give the plan a pose: `images` or `video`, and what else differs from the defaults of Pose."""
    defaults = {"strength": 1.0, "at_end": "hold", "start_percent": 0.0, "end_percent": 1.0, "fps": 16.0}
    inputs_of(prompt, "WanS2VPrepare")["pose"] = [add(prompt, "WanS2VPose", **{**defaults, **inputs}), 0]


def add_options(prompt: Prompt, **inputs: Any) -> Prompt:
    """Give the sampler options that differ from the defaults of Sampling Options."""
    defaults = {"cfg_start_percent": 0.0, "cfg_end_percent": 1.0, "vae_warmup": 19}
    inputs_of(prompt, "WanS2VSampler")["options"] = [add(prompt, "WanS2VSamplingOptions", **{**defaults, **inputs}), 0]
    return prompt


def flash_graph(**changes: Any) -> Prompt:
    """The quick start for the whole sound, with the stand-ins of `stand_ins/flash.py` for audio encoder, model and VAE."""
    prompt = quick_start(duration=0, **changes)
    inputs_of(prompt, "WanS2VAudioEncode")["audio_encoder"] = [add(prompt, "StandInAudioEncoder"), 0]
    vae = add(prompt, "StandInVAE", vae=inputs_of(prompt, "WanS2VPrepare")["vae"])
    for node in ("WanS2VPrepare", "WanS2VSampler"):
        inputs_of(prompt, node)["vae"] = [vae, 0]
    patch_model(prompt, "StandInModel")
    return prompt
