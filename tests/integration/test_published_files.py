"""The published files at full size, 90 GB of holes: what reads them knows them, at the size and with the names that people have."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.cli.models import download, hub
from wan_s2v_pack.cli.models.files import FILES, ModelFile, select
from wan_s2v_pack.tests import published_files
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.published_files import (
    FINGERPRINTS,
    TOKENIZER_BYTES,
    VAE_WIDTH,
    VOCABULARY,
    fingerprint,
    write_holes,
    write_pickled_holes,
)
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 4
MINUTE = 60


@pytest.fixture(scope="session")
def loaders():
    return pack_module("wan_s2v_model.comfy_bridge.loaders")


@pytest.fixture(scope="session")
def vae(loaders):
    return loaders.vae_shapes(VAE_WIDTH)


@pytest.fixture(scope="session")
def models(vae, tmp_path_factory) -> Path:
    """A models folder with ComfyUI's single files and those of the official repository."""
    models = tmp_path_factory.mktemp("models")
    published_files.require_holes(models)
    dit, text, audio = (models / folder for folder in ("diffusion_models", "text_encoders", "audio_encoders"))
    write_holes(dit / "wan2.2_s2v_14B_bf16.safetensors", published_files.transformer(), "BF16")
    write_shards(dit / "Wan2.2-S2V-14B")
    write_holes(text / "umt5_xxl_fp16.safetensors", published_files.text_encoder(), "F16", spiece_model=TOKENIZER_BYTES)
    write_pickled_holes(text / "models_t5_umt5-xxl-enc-bf16.pth", published_files.official_text_encoder(), torch.bfloat16)
    write_small(text / "google" / "umt5-xxl" / "spiece.model", b"\n\x0e\n\x05<pad>")
    shapes = published_files.audio_encoder()
    bare = {name.removeprefix("wav2vec2."): shape for name, shape in shapes.items()}
    write_holes(audio / "wav2vec2_large_english_fp16.safetensors", bare, "F16")
    write_holes(audio / "wav2vec2-large-xlsr-53-english" / "model.safetensors", shapes, "F32", {"format": "pt"})
    write_small(audio / "wav2vec2-large-xlsr-53-english" / "config.json", json.dumps(published_files.WAV2VEC2_LARGE).encode())
    write_holes(models / "vae" / "wan_2.1_vae.safetensors", vae, "BF16")
    write_pickled_holes(models / "vae" / "Wan2.1_VAE.pth", vae, torch.float32)
    return models


def write_small(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


def write_shards(folder: Path) -> None:
    names = list(published_files.transformer())
    shards = [f"diffusion_pytorch_model-{index + 1:05d}-of-{NUM_SHARDS:05d}.safetensors" for index in range(NUM_SHARDS)]
    places = {name: shards[index * NUM_SHARDS // len(names)] for index, name in enumerate(names)}
    for shard in shards:
        shapes = {name: shape for name, shape in published_files.transformer().items() if places[name] == shard}
        write_holes(folder / shard, shapes, "BF16", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel_S2V", "dim": 5120}))
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def shapes_of(tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_vae_has_the_published_fingerprint(vae):
    assert (fingerprint(vae), len(vae)) == FINGERPRINTS["Wan2.1 VAE"]


def test_files_have_the_published_sizes(models):
    """In GB as the table of the command `download` has them, which comes from the hub; the disk has next to nothing."""
    for file in (file for files in FILES.values() for file in files):
        path = models / file.folder / file.name
        if path.is_file() and file.gigabytes >= 0.2 and "-of-" not in file.name:
            assert path.stat().st_size / 1e9 == pytest.approx(file.gigabytes, rel=0.03, abs=0.02), file.name
            assert path.stat().st_blocks * 512 < 2e6


@pytest.fixture
def loaders_of_headers(loaders, monkeypatch):
    """Our loaders, where ComfyUI's reader of files gives tensors without values."""
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda path, **_: published_files.read_without_values(path))
    return loaders


@pytest.mark.parametrize(
    "name", ["wan2.2_s2v_14B_bf16.safetensors", "Wan2.2-S2V-14B/diffusion_pytorch_model.safetensors.index.json"], ids=["file", "shards"]
)
def test_transformer(loaders_of_headers, models, name):
    tensors, config = loaders_of_headers.read_transformer(str(models / "diffusion_models" / name))
    assert config == S2V_14B
    assert (fingerprint(shapes_of(tensors)), len(tensors)) == FINGERPRINTS["S2V transformer"]


@pytest.mark.parametrize("name", ["umt5_xxl_fp16.safetensors", "models_t5_umt5-xxl-enc-bf16.pth"])
def test_text_encoder(loaders_of_headers, models, name):
    tensors, dimensions = loaders_of_headers.read_text_encoder(str(models / "text_encoders" / name))
    assert (dimensions["d_model"], dimensions["num_layers"], dimensions["vocab_size"]) == (4096, 24, VOCABULARY)
    assert shapes_of(tensors).items() >= published_files.text_encoder().items()


@pytest.mark.parametrize("name", ["wan_2.1_vae.safetensors", "Wan2.1_VAE.pth"])
def test_vae(loaders_of_headers, vae, models, name):
    tensors, _ = loaders_of_headers.read_vae(str(models / "vae" / name))
    assert shapes_of(tensors) == vae


def test_audio_encoder(models):
    """The whole of it, which is small enough."""
    load = pack_module("wan_s2v_model.checkpoints.wav2vec2").load_wav2vec2
    model = load(models / "audio_encoders" / "wav2vec2-large-xlsr-53-english" / "model.safetensors")
    assert (model.config.hidden_size, model.config.num_hidden_layers, model.config.do_stable_layer_norm) == (1024, 24, True)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(315.4e6, rel=1e-3)


# --- the commands


def test_doctor(models, comfyui_path):
    command = [sys.executable, "-m", "cli", "doctor", "--json", "--models-dir", str(models)]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=5 * MINUTE)
    findings = {finding["topic"]: finding for finding in reversed(json.loads(ended.stdout))}
    for topic, texts in FOUND.items():
        assert findings[topic]["status"] == "ok", findings[topic]
        assert sorted(findings[topic]["text"].split("; ")) == texts


FOUND = {
    "Model": [
        "Wan2.2-S2V-14B/diffusion_pytorch_model.safetensors.index.json (bf16, 4 shards, 32.59 GB)",
        "wan2.2_s2v_14B_bf16.safetensors (bf16, 32.59 GB)",
    ],
    "Text encoder": ["models_t5_umt5-xxl-enc-bf16.pth (PyTorch file, 11.36 GB)", "umt5_xxl_fp16.safetensors (fp16, 11.37 GB)"],
    "Audio encoder": [
        "wav2vec2-large-xlsr-53-english/model.safetensors (fp32, 1.26 GB)",
        "wav2vec2_large_english_fp16.safetensors (fp16, 0.63 GB)",
    ],
    "VAE": ["Wan2.1_VAE.pth (PyTorch file, 0.51 GB)", "wan_2.1_vae.safetensors (bf16, 0.25 GB)"],
}


@pytest.fixture
def plan(models, monkeypatch, capsys):
    """What `download` says, where the hub has a set of files of these sizes and the disk has room for them."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: argparse.Namespace(free=10**12))

    def run(name: str, size_of, *options: str) -> str:
        def look_up(file: ModelFile) -> hub.RemoteFile:
            return hub.RemoteFile(file, file.url, "0" * 64, size_of(models / file.folder / file.name))

        monkeypatch.setattr(hub, "look_up", look_up)
        parser = argparse.ArgumentParser()
        download.add_parser(parser.add_subparsers())
        arguments = ["--set", name, "--precision", "bf16", "--only", "model,text,audio,vae", "--models-dir", str(models), *options]
        assert download.run(parser.parse_args(["download", *arguments])) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", FILES)
def test_download_knows_that_the_files_are_there(plan, name):
    told = plan(name, lambda path: path.stat().st_size)
    assert told.splitlines()[-1] == "to download: 0.00 GB"
    assert told.count(": in place") == len(select(name, "bf16", ("model", "text", "audio", "vae")))


def test_dry_run_knows_it_from_the_rounded_sizes(plan):
    told = plan("comfy", None, "--dry-run")
    assert told.count(": in place") == 4
    assert "to download: 0.00 GB\n" in told


def test_download_replaces_what_is_cut_off(plan, models):
    model = models / "diffusion_models" / "wan2.2_s2v_14B_bf16.safetensors"
    size = model.stat().st_size
    told = plan("comfy", lambda path: path.stat().st_size + 1, "--only", "model", "--dry-run", "--verify")
    assert f"diffusion_models: to replace, has {size:,} bytes instead of {size + 1:,}" in told
