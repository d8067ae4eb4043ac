"""What the shipped workflows tell the front end about the files they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.cli.model_files import PARTS, by_name
from wan_s2v_pack.wan_s2v_model.schedule import build_schedule

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))}
FOLDERS = {  # loader -> the folder it lists
    "WanS2VModelLoader": "diffusion_models",
    "WanS2VTextEncoderLoader": "text_encoders",
    "WanS2VAudioEncoderLoader": "audio_encoders",
    "WanS2VVAELoader": "vae",
    "UNETLoader": "diffusion_models",
    "VAELoader": "vae",
    "WanS2VLoraLoader": "loras",
}
LOADERS = [
    pytest.param(node, id=f"{name}-{node['type']}") for name, flow in WORKFLOWS.items() for node in flow["nodes"] if node["type"] in FOLDERS
]
FAST_PRESET = [4, 1.0, 5.0, "euler"]  # steps, cfg, shift, solver: the steps that the LoRA was distilled for, see below
DOWNLOADABLE = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")  # the front end offers no other files, and only from some hosts


@pytest.mark.parametrize("node", LOADERS)
def test_loader_says_where_its_file_is(node):
    (model,) = node["properties"]["models"]
    file = by_name(model["name"])
    assert model["name"] == node["widgets_values"][0]
    assert model == {"name": file.name, "url": file.url, "directory": FOLDERS[node["type"]]}
    assert file.folder == FOLDERS[node["type"]]
    assert file.url.startswith("https://huggingface.co/")
    assert file.name.endswith(DOWNLOADABLE)


def used_folders(name):
    return {FOLDERS[node["type"]] for node in WORKFLOWS[name]["nodes"] if node["type"] in FOLDERS}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_needed_file_is_named_once(name):
    models = [model for node in WORKFLOWS[name]["nodes"] for model in node["properties"].get("models", ())]
    parts = [part for part in PARTS.values() if part.needed or part.folder in used_folders(name)]
    assert sorted(model["directory"] for model in models) == sorted(part.folder for part in parts)
    assert "models" not in WORKFLOWS[name]


def test_the_fast_workflow_differs_from_the_quick_start_in_lora_and_preset_only():
    fast, plain = (
        {node["type"]: node["widgets_values"] for node in WORKFLOWS[f"wan_s2v_{name}"]["nodes"]} for name in ("fast", "quick_start")
    )
    changed = {kind for kind in fast if fast[kind] != plain.get(kind)}
    assert changed == {"WanS2VLoraLoader", "WanS2VSampler", "WanS2VSaveVideo", "MarkdownNote"}
    seed, control, _, _, _, _, *rest = plain["WanS2VSampler"]
    assert fast["WanS2VSampler"] == [seed, control, *FAST_PRESET, *rest]


def test_the_fast_preset_samples_at_the_levels_of_the_distillation():
    """lightx2v distils for timesteps 1000, 750, 500 and 250 before a shift of 5."""
    steps, _, shift, solver = FAST_PRESET
    base = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(build_schedule(solver, steps, shift).sigmas, shift * base / (1 + (shift - 1) * base))
