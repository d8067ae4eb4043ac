"""What loaders offer for models in several files: the shards of the official checkpoint, folders with one model."""

import json
from pathlib import PureWindowsPath

import pytest
from wan_s2v_pack.wan_s2v_model.checkpoints import shards
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.shards import collapse_shards, shard_files, with_folders

SHARDS = ["official/model-00001-of-00002.safetensors", "official/model-00002-of-00002.safetensors"]
INDEX = "official/model.safetensors.index.json"


def test_shards_appear_once_under_the_name_of_their_index():
    assert collapse_shards([*SHARDS, "plain.safetensors"]) == [INDEX, "plain.safetensors"]


def test_two_folders_stay_apart():
    names = collapse_shards([*SHARDS, SHARDS[0].replace("official", "other")])
    assert names == ["official/model.safetensors.index.json", "other/model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        ([INDEX, "plain.safetensors"], {"official": INDEX}),
        (["a/b/model.safetensors"], {"a/b": "a/b/model.safetensors"}),
        (["a/pytorch_model.bin", "a/vocab.pt"], {"a": "a/pytorch_model.bin"}),
        (["a/pytorch_model.bin", "a/model.safetensors"], {"a": "a/model.safetensors"}),
        (["a/model.safetensors", "a/x.safetensors.index.json"], {"a": "a/x.safetensors.index.json"}),
        (["a/x.safetensors.index.json", "a/y.safetensors.index.json"], {}),
        (["a/one.safetensors", "a/two.safetensors"], {}),
        (["model.safetensors", "x.safetensors.index.json"], {}),
    ],
)
def test_folder_with_one_model_is_offered_beside_its_files(files, folders):
    choices = with_folders(files)
    assert choices == {**{file: file for file in files}, **folders}
    assert list(choices) == sorted(choices)


def test_on_windows_the_choices_are_those_of_other_systems(monkeypatch):
    monkeypatch.setattr(shards, "PurePath", PureWindowsPath)
    assert with_folders(["wav2vec2-tiny\\model.safetensors", "plain.safetensors"]) == {
        "plain.safetensors": "plain.safetensors",
        "wav2vec2-tiny": "wav2vec2-tiny\\model.safetensors",
        "wav2vec2-tiny/model.safetensors": "wav2vec2-tiny\\model.safetensors",
    }


def test_index_leads_to_its_shards(tmp_path):
    for name in ("b.safetensors", "a.safetensors"):
        (tmp_path / name).touch()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}))
    assert shard_files(index) == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


def test_missing_shard_is_named(tmp_path):
    (tmp_path / "a.safetensors").touch()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"1 of 2 shards are missing \(b\.safetensors\)"):
        shard_files(index)


def test_three_of_many_missing_shards_are_named(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {str(number): f"{number}.safetensors" for number in range(9)}}))
    with pytest.raises(CheckpointError, match=r"9 of 9 shards are missing \(0\.safetensors, 1\.safetensors, 2\.safetensors\)\."):
        shard_files(index)


def test_an_index_may_be_a_link_as_in_the_cache_of_the_hub(tmp_path):
    (tmp_path / "blob").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    (tmp_path / "a.safetensors").touch()
    index = tmp_path / "model.safetensors.index.json"
    index.symlink_to(tmp_path / "blob")
    assert shard_files(index) == [tmp_path / "a.safetensors"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}'])
def test_something_else_is_not_an_index(tmp_path, text):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(CheckpointError, match="not the index of a sharded checkpoint"):
        shard_files(index)


def test_index_without_a_file_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="not the index"):
        shard_files(tmp_path / "model.safetensors.index.json")
