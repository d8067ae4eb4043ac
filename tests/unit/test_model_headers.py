"""What the doctor says of a weights file without loading it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.cli.model_headers import HeaderError, OtherModelError, describe, find_candidates, read_header
from wan_s2v_pack.wan_s2v_model.identify import S2V_KEYS

VAE_KEY = "decoder.middle.0.residual.0.gamma"


def write(path, *names, dtype=torch.bfloat16):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(64, dtype=dtype) for name in names}, path, metadata={"format": "pt"})
    return path


def test_kind_and_size_of_a_whole_file(tmp_path):
    path = write(tmp_path / "model.safetensors", *S2V_KEYS)
    assert describe(path, "model") == (path.stat().st_size, "bf16")
    assert set(read_header(path)) == set(S2V_KEYS)


def test_tokenizer_does_not_count_as_weights(tmp_path):
    path = tmp_path / "umt5.safetensors"
    names = {"spiece_model": torch.zeros(9999, dtype=torch.uint8), "shared.weight": torch.zeros(8, dtype=torch.float16)}
    save_file(names, path)
    assert describe(path, "text")[1] == "fp16"


def test_prefixed_names_are_recognised(tmp_path):
    path = write(tmp_path / "model.safetensors", *(f"model.diffusion_model.{name}" for name in S2V_KEYS))
    assert describe(path, "model")[1] == "bf16"


def test_other_model_is_named(tmp_path):
    path = write(tmp_path / "s2v.safetensors", VAE_KEY)
    with pytest.raises(OtherModelError, match=r"^a Wan VAE$"):
        describe(path, "model")
    assert describe(path, "vae")[1] == "bf16"


@pytest.mark.parametrize(
    ("length", "message"),
    [(None, "no safetensors file"), (0, "cut off"), (5, "cut off"), (60, "cut off"), (-1, r"cut off: \d+ of \d+ bytes")],
)
def test_damaged_files(tmp_path, length, message):
    path = write(tmp_path / "vae.safetensors", VAE_KEY)
    content = path.read_bytes()
    path.write_bytes(bytes.fromhex("0400000000000000") + b"[[]]" if length is None else content[:length])
    with pytest.raises(HeaderError, match=message):
        describe(path, "vae")


@pytest.mark.parametrize("name", ["Wan2.1_VAE.pth", "pytorch_model.bin"])
def test_pickles_are_not_opened(tmp_path, name):
    path = tmp_path / name
    torch.save({VAE_KEY: torch.zeros(9)}, path)
    assert describe(path, "vae") == (path.stat().st_size, "PyTorch file")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HeaderError, match="cut off"):
        describe(path, "vae")


def test_index_stands_for_its_shards(tmp_path):
    folder = tmp_path / "Wan2.2-S2V-14B"
    shards = [write(folder / f"diffusion_pytorch_model-0000{i}-of-00002.safetensors", name) for i, name in enumerate(S2V_KEYS[:2], 1)]
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard.name for name, shard in zip(S2V_KEYS, shards, strict=False)}}))
    assert find_candidates([tmp_path, tmp_path / "absent"], "s2v") == [(f"Wan2.2-S2V-14B/{index.name}", index)]
    assert describe(index, "model") == (sum(shard.stat().st_size for shard in shards), "bf16, 2 shards")
    shards[1].unlink()
    with pytest.raises(HeaderError, match="1 of 2 shards are missing"):
        describe(index, "model")
    index.write_text("[]")
    with pytest.raises(HeaderError, match="no index"):
        describe(index, "model")


def test_candidates_are_weights_with_a_usual_name(tmp_path):
    for name in ("a/Wan_S2V.safetensors", "b.safetensors", "s2v.txt", "s2v.safetensors.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in find_candidates([tmp_path], "s2v")] == ["a/Wan_S2V.safetensors"]
