"""The shipped workflows as files: layout, pictures, and what they tell the front end about the models they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from wan_s2v_pack.cli.models.files import PARTS, by_name
from wan_s2v_pack.scripts.records.schemas import read_snapshot
from wan_s2v_pack.wan_s2v_model.constants import DEFAULT_GUIDANCE_SCALE, DEFAULT_SHIFT, DEFAULT_STEPS
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule

ROOT = Path(__file__).resolve().parents[4]
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))}
FOLDERS = {  # loader -> the folder it lists
    "WanS2VModelLoader": "diffusion_models",
    "WanS2VTextEncoderLoader": "text_encoders",
    "WanS2VAudioEncoderLoader": "audio_encoders",
    "WanS2VVAELoader": "vae",
    "UNETLoader": "diffusion_models",
    "VAELoader": "vae",
    "WanS2VLoraLoader": "loras",
    "UpscaleModelLoader": "upscale_models",
    "FrameInterpolationModelLoader": "frame_interpolation",
}
OUR_FOLDERS = {part.folder for part in PARTS.values()}
LOADERS = [
    pytest.param(node, id=f"{name}-{node['type']}") for name, flow in WORKFLOWS.items() for node in flow["nodes"] if node["type"] in FOLDERS
]
TITLE = 30  # px above a node
FAST_PRESET = {"steps": 4, "cfg": 1.0, "shift": 5.0, "solver": "euler"}  # what the LoRA was distilled for, see below
DOWNLOADABLE = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")  # the front end offers no other files, and only from some hosts


@pytest.mark.parametrize("node", LOADERS)
def test_loader_says_where_its_file_is(node):
    (model,) = node["properties"]["models"]
    assert model["name"] == node["widgets_values"][0]
    assert model["directory"] == FOLDERS[node["type"]]
    assert model["url"].startswith("https://huggingface.co/")
    assert model["url"].endswith(f"/{model['name']}")
    assert model["name"].endswith(DOWNLOADABLE)
    if model["directory"] in OUR_FOLDERS:
        file = by_name(model["name"])
        assert model == {"name": file.name, "url": file.url, "directory": file.folder}


def used_folders(name):
    return {FOLDERS[node["type"]] for node in WORKFLOWS[name]["nodes"] if node["type"] in FOLDERS}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_needed_file_is_named_once(name):
    models = [model for node in WORKFLOWS[name]["nodes"] for model in node["properties"].get("models", ())]
    needed = {part.folder for part in PARTS.values() if part.needed}
    assert sorted(model["directory"] for model in models) == sorted(needed | used_folders(name))
    assert "models" not in WORKFLOWS[name]


def box(node):
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE, left + width, top + height


def inside(node, group):
    left, top, right, bottom = box(node)
    x, y, width, height = group["bounding"]
    return x <= left and y <= top and right <= x + width and bottom <= y + height


@pytest.mark.parametrize("name", WORKFLOWS)
def test_groups_from_left_to_right_with_a_note_each(name):
    workflow = WORKFLOWS[name]
    owners = {node["id"]: [group["id"] for group in workflow["groups"] if inside(node, group)] for node in workflow["nodes"]}
    assert all(len(groups) == 1 for groups in owners.values()), owners
    notes = [owners[node["id"]][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    assert sorted(notes) == [group["id"] for group in workflow["groups"]]
    for _, origin, _, target, _, kind in workflow["links"]:
        assert owners[origin] <= owners[target], f"{kind} goes back from {origin} to {target}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nodes_do_not_overlap(name):
    """With the sizes in the file; tests/browser has those of the front end."""
    boxes = [box(node) for node in WORKFLOWS[name]["nodes"]]
    for index, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.parametrize("name", WORKFLOWS)
def test_picture_beside_each(name):
    path = ROOT / "workflows" / f"{name}.jpg"
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (400, 400))
    assert path.stat().st_size < 50_000


@pytest.mark.parametrize("name", WORKFLOWS)
def test_inputs_are_samples(name):
    files = [node["widgets_values"][0] for node in WORKFLOWS[name]["nodes"] if node["type"] in ("LoadImage", "LoadAudio", "LoadVideo")]
    assert len(files) >= 2
    assert all((ROOT / "samples" / file).is_file() for file in files)


def test_every_node_that_changes_the_video_is_shown():
    """Somewhere in the set, apart from those that stand for another way in."""
    shown = {node["type"] for flow in WORKFLOWS.values() for node in flow["nodes"]}
    assert set(read_snapshot()) - shown == {"WanS2VTail", "WanS2VTextToSpeech", "WanS2VSamplingOptions"}


def test_the_quality_workflow_has_the_references_settings():
    sampler = inputs_of("quality")["WanS2VSampler"]
    expected = {"steps": DEFAULT_STEPS, "cfg": DEFAULT_GUIDANCE_SCALE, "shift": DEFAULT_SHIFT, "solver": "unipc"}
    assert {name: sampler[name] for name in expected} == expected


def inputs_of(name):
    """Type -> inputs that are values, of the twin in API format."""
    prompt = json.loads((ROOT / "docs" / "api" / f"wan_s2v_{name}.json").read_text(encoding="utf-8"))
    return {
        node["class_type"]: {key: value for key, value in node["inputs"].items() if not isinstance(value, list)} for node in prompt.values()
    }


def test_the_fast_workflow_differs_from_the_quick_start_in_lora_and_preset_only():
    fast, plain = inputs_of("fast"), inputs_of("quick_start")
    changed = {kind for kind in fast if fast[kind] != plain.get(kind)}
    assert changed == {"WanS2VLoraLoader", "WanS2VSampler", "WanS2VSaveVideo"}
    assert fast["WanS2VSampler"] == {**plain["WanS2VSampler"], **FAST_PRESET}


def test_the_fast_preset_samples_at_the_levels_of_the_distillation():
    """lightx2v distils for timesteps 1000, 750, 500 and 250 before a shift of 5."""
    steps, _, shift, solver = FAST_PRESET.values()
    base = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(build_schedule(solver, steps, shift).sigmas, shift * base / (1 + (shift - 1) * base))
