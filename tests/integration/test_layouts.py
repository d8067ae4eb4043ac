"""The official layouts of the models, picked in our loaders, give the frames of the plain files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .graphs import EXACT, TINY_FILES, quick_start

MODEL = TINY_FILES["wan2.2_s2v_14B_bf16.safetensors"]
TEXT_ENCODER = TINY_FILES["umt5_xxl_fp16.safetensors"]
OFFICIAL_PARTS = {
    "0.layer_norm": "norm1",
    "1.layer_norm": "norm2",
    "0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "1.DenseReluDense.wi_0": "ffn.gate.0",
    "1.DenseReluDense.wi_1": "ffn.fc1",
    "1.DenseReluDense.wo": "ffn.fc2",
}


@pytest.fixture(scope="session")
def official_folder(base_directory) -> str:
    """The transformer in two shards with index and config.json."""
    source = base_directory / "models" / "diffusion_models" / MODEL
    folder = source.parent / "official"
    folder.mkdir()
    with safe_open(source, "pt") as file:
        config = json.loads(file.metadata()["config"])["transformer"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(source)
    places = {name: f"diffusion_pytorch_model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        save_file({name: tensors[name] for name, place in places.items() if place == shard}, folder / shard)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return "official/diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture(scope="session")
def official_text_encoder(base_directory) -> str:
    """The text encoder as a pickle with the official names, its tokenizer beside it."""
    source = base_directory / "models" / "text_encoders" / TEXT_ENCODER
    tensors = load_file(source)
    tokenizer = source.parent / "google" / "umt5-xxl" / "spiece.model"
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_bytes(bytes(tensors.pop("spiece_model")))
    torch.save({official_name(name): tensor for name, tensor in tensors.items()}, source.parent / "models_t5_tiny.pth")
    return "models_t5_tiny.pth"


def official_name(name: str) -> str:
    if not name.startswith("encoder.block."):
        return {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}[name]
    _, _, block, _, part = name.removesuffix(".weight").split(".", 4)
    return f"blocks.{block}.{OFFICIAL_PARTS.get(part, part.replace('0.SelfAttention.', 'attn.'))}.weight"


@pytest.fixture
def plain(renderer):
    return renderer.render(quick_start(**EXACT)).luma


def test_official_folder_of_shards(official_folder, plain, renderer):
    assert np.array_equal(renderer.render(quick_start(model_name=official_folder, **EXACT)).luma, plain)


def test_official_text_encoder(official_text_encoder, plain, renderer):
    assert np.array_equal(renderer.render(quick_start(text_encoder_name=official_text_encoder, **EXACT)).luma, plain)
