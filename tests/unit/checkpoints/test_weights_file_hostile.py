"""Weights files that somebody made to do harm: each is refused in words, at once and without its memory."""

import io
import json
import os
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.tests.damaged_files import with_header
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError, problem_of, some
from wan_s2v_pack.wan_s2v_model.checkpoints.identify import count_layers
from wan_s2v_pack.wan_s2v_model.checkpoints.lora_settings import read_settings
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes, infer_config
from wan_s2v_pack.wan_s2v_model.checkpoints.shards import shard_files
from wan_s2v_pack.wan_s2v_model.checkpoints.wav2vec2 import read_config
from wan_s2v_pack.wan_s2v_model.checkpoints.weights_file import reading, require_floats, require_tensors
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B

ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":%s}'


@pytest.mark.parametrize(
    "header",
    [
        '{"a":' + ENTRY % "[0,1e999]" + "}",
        '{"a":' + ENTRY % "[0,NaN]" + "}",
        '{"a":' + ENTRY % "[0,1e400]" + "}",
        '{"a":' * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' + ENTRY % ("[0," + "9" * 5000 + "]") + "}",
        '{"a": 3}',
        '{"a": {"data_offsets": ["0", "4"]}}',
    ],
    ids=range(8),
)
def test_headers(header, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(header.encode() if header.startswith("{") else b"{" + header.encode(), b"\0" * 4))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"), reading(path):
        raise AssertionError("it was opened")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_pipe_in_place_of_a_file(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="a folder, a pipe or a device"), reading(tmp_path / name):
        pass


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_nothing_is_quoted_of_a_file_that_a_link_leads_to(tmp_path):
    (tmp_path / "secret.txt").write_text("password=hunter2")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "secret.txt")
    problem = problem_of(tmp_path / "model.safetensors")
    assert problem is not None
    assert problem[0] == "it is a text file"


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b.safetensors"])
def test_an_index_that_leads_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_text("password=hunter2")
    index = folder / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="a shard lies beside its index") as caught:
        shard_files(index)
    assert "hunter2" not in str(caught.value)
    assert "passwd" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"weight_map": {"a": 1e999}}', '{"weight_map": {"a": ["b"]}}', '{"weight_map": {}}', "[]"]
)
def test_an_index_that_is_none(text, tmp_path):
    index = tmp_path / "x.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match="is not the index of a sharded checkpoint"):
        shard_files(index)


def test_more_layers_than_tensors():
    """Before, 27 billion names of tensors were made for this."""
    with pytest.raises(CheckpointError, match=r"numbers its layers up to 999,999,999, but holds 2 tensors"):
        count_layers({"blocks.999999999.x": (1,), "y": (1,)}, "blocks")
    with pytest.raises(CheckpointError, match="numbers its layers"):
        count_layers({f"blocks.{index}.x": (1,) for index in range(1001)}, "blocks")


def test_metadata_that_is_too_deep_names_no_blocks():
    shapes = {"patch_embedding.weight": (128, 16, 1, 2, 2)}
    with pytest.raises(CheckpointError):
        infer_config(shapes, {"config": "[" * 100_000})


def write_pth(path, contents):
    torch.save(contents, path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2_000_000_000),
        torch.zeros(3, 1).expand(3, 10**9),
        torch.eye(3).to_sparse(),
        torch.empty(3, 3, device="meta"),
    ],
    ids=["stride 0", "stride 0 in one axis", "sparse", "without data"],
)
def test_tensors_that_are_not_what_they_claim(tensor, tmp_path):
    path = tmp_path / "model.pth"
    contents = {"a": tensor} if tensor.is_meta or tensor.layout != torch.strided else write_pth(path, {"a": tensor})
    with pytest.raises(CheckpointError, match="have no numbers of their own"):
        require_tensors(contents, path)


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_pytorch_has_quantised(tmp_path):
    quantised = torch.quantize_per_tensor(torch.rand(4), 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match="quantised by PyTorch"):
        require_tensors({"a": quantised}, tmp_path / "model.pth")


def test_many_tensors_that_show_the_same_numbers(tmp_path):
    path = tmp_path / "model.pth"
    base = torch.zeros(1000, 1000)
    contents = write_pth(path, {f"a{index}": base for index in range(100)})
    with pytest.raises(CheckpointError, match="would take 400,000,000 bytes"):
        require_tensors(contents, path)


def test_tied_weights_are_fine(tmp_path):
    base = torch.zeros(1000, 1000)
    contents = write_pth(tmp_path / "model.pth", {"a": base, "b": base})
    assert len(require_tensors(contents, tmp_path / "model.pth")) == 2


def test_an_archive_that_unpacks_to_more(tmp_path):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
        archive.writestr("model/data/0", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="unpacks to 50,000,004 bytes"), reading(path):
        raise AssertionError("it was opened")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.complex64])
def test_whole_numbers_in_place_of_weights(dtype):
    with pytest.raises(CheckpointError, match="are no floating point numbers"):
        require_floats({"a.weight": torch.zeros(2, dtype=dtype)}, "model.pth", packed=True)


def test_quantised_weights_are_fine():
    require_floats({"a": torch.zeros(2, dtype=torch.uint8), "b": torch.zeros(2)}, "model.pth", packed=True)
    with pytest.raises(CheckpointError):
        require_floats({"a": torch.zeros(2, dtype=torch.uint8)}, "model.pth")


def test_names_of_tensors_are_cut():
    assert len(some(["x" * 1_000_000] * 5)) < 700
    assert some(["a\x1b[31m\nb"]) == "a?[31m b"


@pytest.mark.parametrize("field", ["num_adapter_layers", "conv_dim"])
def test_a_configuration_that_asks_for_a_million_layers(field, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({field: [1] * 1_000_000 if field == "conv_dim" else 1_000_000}))
    with pytest.raises(CheckpointError, match=f"{field} asks for 1,000,000 of them"):
        read_config(tmp_path / "model.safetensors", {"a": torch.zeros(1)})


def test_settings_that_say_nothing_of_the_model_build_nothing(tmp_path):
    """transformers would make a billion names of labels."""
    (tmp_path / "config.json").write_text(json.dumps({"num_labels": 10**9, "id2label": {"1": "x"}, "dtype": "save", "hidden_size": 32}))
    assert read_config(tmp_path / "model.safetensors", {"a": torch.zeros(1)}) == {"hidden_size": 32}


HARD = ["(a+)+$", "(.*)*x", "a" * 400, r"(a)\1", "a*b*c*d*", "a?" * 40 + "a" * 40, "(a|.)" * 40 + "b"]


@pytest.mark.parametrize("pattern", HARD)
def test_patterns_of_a_lora_that_match_for_ever(pattern, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4, "alpha_pattern": {pattern: 3}}))
    with pytest.raises(CheckpointError, match="could take for ever"):
        read_settings(tmp_path / "adapter_model.safetensors", {})


def test_long_names_are_matched_with_no_pattern(tmp_path):
    noted = {"lora_alpha": 8, "r": 4, "alpha_pattern": {".*a.*b": 3}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(noted))
    settings = read_settings(tmp_path / "adapter_model.safetensors", {})
    start_s = time.monotonic()
    assert settings.alpha_of(["a." * 20_000], 4) == 8
    assert time.monotonic() - start_s < 1
    assert settings.alpha_of(["blocks.0.xay.b"], 4) == 3


def test_more_patterns_than_modules(tmp_path):
    noted = {"lora_alpha": 8, "r": 4, "rank_pattern": {f"a{number}": 3 for number in range(60_000)}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(noted))
    with pytest.raises(CheckpointError, match="could take for ever"):
        read_settings(tmp_path / "adapter_model.safetensors", {})


@pytest.mark.parametrize("pattern", [r"blocks\.(" + "|".join(map(str, range(40))) + r")\..*(q|k|v|o)", r"(?:blocks\.)?\d+", ".*attn.*"])
def test_patterns_as_trainers_write_them(pattern, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4, "alpha_pattern": {pattern: 3}}))
    assert read_settings(tmp_path / "adapter_model.safetensors", {}).alphas == {pattern: 3}


def test_a_pickle_that_asks_for_a_petabyte(tmp_path):
    path, made = tmp_path / "model.pth", io.BytesIO()
    torch.save({"a": torch.zeros(2)}, made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            greedy = b"\x80\x02cbuiltins\nbytearray\n\x8a\x07" + (2**50).to_bytes(7, "little") + b"\x85R."
            target.writestr(name, greedy if name.endswith("data.pkl") else source.read(name))
    with pytest.raises(CheckpointError, match="does not fit into main memory"), reading(path):
        torch.load(path, weights_only=True)


def test_a_million_injected_blocks_are_not_repeated():
    shapes = {**expected_shapes(S2V_14B)}
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        infer_config(shapes, {"config": json.dumps({"transformer": {"audio_inject_layers": list(range(100_000))}})})
    assert len(str(caught.value)) < 400


def test_length_of_a_header_beyond_the_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 90_000_000) + b"{" + b" " * 600)
    with pytest.raises(CheckpointError, match="cut off inside its header"), reading(tmp_path / "model.safetensors"):
        pass
