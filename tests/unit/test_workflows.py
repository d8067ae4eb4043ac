"""What the shipped workflows tell the front end about the files they need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wan_s2v_pack.cli.model_files import PARTS, by_name

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))}
FOLDERS = {  # loader -> the folder it lists
    "WanS2VModelLoader": "diffusion_models",
    "WanS2VTextEncoderLoader": "text_encoders",
    "WanS2VAudioEncoderLoader": "audio_encoders",
    "WanS2VVAELoader": "vae",
    "UNETLoader": "diffusion_models",
    "VAELoader": "vae",
}
LOADERS = [
    pytest.param(node, id=f"{name}-{node['type']}") for name, flow in WORKFLOWS.items() for node in flow["nodes"] if node["type"] in FOLDERS
]
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


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_needed_file_is_named_once(name):
    models = [model for node in WORKFLOWS[name]["nodes"] for model in node["properties"].get("models", ())]
    assert sorted(model["directory"] for model in models) == sorted(part.folder for part in PARTS.values() if part.needed)
    assert "models" not in WORKFLOWS[name]
