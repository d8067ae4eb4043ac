"""Which file a choice of a loader stands for, and what the block says of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct

import pytest
from wan_s2v_pack.cli.compare.files import file_lines, find_file, header_digest
from wan_s2v_pack.cli.models.folders import ModelFolders
from wan_s2v_pack.cli.predict.object_info import PromptError


@pytest.fixture
def folders(tmp_path):
    return ModelFolders(tmp_path, {})


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def safetensors(header, values=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.safetensors", "a.safetensors"),
        ("official", "official/diffusion_pytorch_model.safetensors.index.json"),
        ("wav2vec2", "wav2vec2/model.safetensors"),
        ("old", "old/pytorch_model.bin"),
    ],
)
def test_a_folder_stands_for_its_main_file(folders, name, file):
    path = write(folders.models / "vae" / file)
    assert find_file(folders, "vae", name) == path


def test_a_file_that_is_elsewhere_is_named(folders):
    with pytest.raises(PromptError, match=r"a\.safetensors is not in models/vae. --models-dir"):
        find_file(folders, "vae", "a.safetensors")


def test_digest_is_of_the_header_alone(tmp_path):
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    first = write(tmp_path / "a.safetensors", safetensors(header, b"\0\0\0\0"))
    second = write(tmp_path / "b.SAFETENSORS", safetensors(header, b"\1\1\1\1"))
    other = write(tmp_path / "c.safetensors", safetensors({"b": header["a"]}, b"\0\0\0\0"))
    assert header_digest(first) == hashlib.sha256(json.dumps(header).encode()).hexdigest()[:16]
    assert header_digest(first) == header_digest(second) != header_digest(other)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40])
def test_digest_of_a_broken_file_is_no_error(tmp_path, content):
    assert len(header_digest(write(tmp_path / "a.safetensors", content))) == 16


def test_digest_of_other_files_is_of_their_beginning(tmp_path):
    path = write(tmp_path / "a.pth", b"x" * (2**20 + 1))
    assert header_digest(path) == hashlib.sha256(b"x" * 2**20).hexdigest()[:16]


def test_lines_name_type_size_and_digest_without_folders(folders):
    path = write(folders.models / "vae" / "secret" / "a.safetensors", safetensors({}))
    (line,) = file_lines(folders, {"vae": "secret/a.safetensors"})
    assert line == f"vae: a.safetensors, NOT as expected: it holds no tensors, {path.stat().st_size:,} bytes, header {header_digest(path)}"
    shutil.rmtree(path.parent)
