"""Where ComfyUI and its model folders are found."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli.models import folders as model_folders
from wan_s2v_pack.cli.models.folders import FolderError, find_comfyui, find_model_folders, read_extra_paths

EXTRA = """
shared:
  base_path: ../disk
  is_default: true
  diffusion_models: |
    models/diffusion_models
    models/unet
  clip: models/clip
empty:
plain:
  vae: {absolute}
"""


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return make_comfyui(tmp_path / "ComfyUI")


def make_comfyui(folder):
    (folder / "models").mkdir(parents=True)
    for name in ("main.py", "folder_paths.py"):
        (folder / name).touch()
    return folder


def test_given_folder_comes_before_the_environment(comfyui, tmp_path, monkeypatch):
    other = make_comfyui(tmp_path / "other")
    monkeypatch.setenv("COMFYUI_PATH", str(other))
    assert find_comfyui(comfyui) == comfyui
    assert find_comfyui(None) == other


def test_comfyui_around_the_pack(comfyui, monkeypatch):
    monkeypatch.setattr(model_folders, "ROOT", comfyui / "custom_nodes" / "wan_s2v")
    assert find_comfyui(None) == comfyui


def test_comfyui_around_a_link_to_the_pack(comfyui, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "ROOT", tmp_path)
    monkeypatch.setenv("PWD", str(comfyui / "custom_nodes" / "linked"))
    assert find_comfyui(None) == comfyui


def test_no_comfyui(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(model_folders, "ROOT", tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    assert find_comfyui(None) is None
    with pytest.raises(FolderError, match="No ComfyUI was found"):
        find_model_folders(None, None)
    with pytest.raises(FolderError, match=r"no main\.py"):
        find_comfyui(tmp_path)


def test_old_folder_names_and_extra_paths_are_searched(comfyui, tmp_path):
    absolute = tmp_path / "vaes"
    (comfyui / "extra_model_paths.yaml").write_text(EXTRA.format(absolute=absolute), encoding="utf-8")
    folders = find_model_folders(comfyui, None)
    disk = comfyui / ".." / "disk" / "models"
    assert folders.of("diffusion_models") == [
        comfyui / "models" / "diffusion_models",
        comfyui / "models" / "unet",
        disk / "diffusion_models",
        disk / "unet",
    ]
    assert folders.of("text_encoders")[-1] == disk / "clip"
    absolute.mkdir()
    (absolute / "a.safetensors").touch()
    assert folders.find("vae", "a.safetensors") == absolute / "a.safetensors"
    assert folders.find("vae", "b.safetensors") is None


def test_given_models_folder_takes_the_place_of_comfyuis(comfyui, tmp_path):
    assert find_model_folders(comfyui, tmp_path).models == tmp_path
    assert find_model_folders(None, tmp_path).extra == {}


@pytest.mark.parametrize("text", ["a: [", "- a", "a: b", "a:\n  vae: 3"])
def test_broken_extra_paths(tmp_path, text):
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FolderError, match="cannot be read"):
        read_extra_paths(path)


def test_extra_paths_that_the_system_does_not_give_out(tmp_path, monkeypatch):
    path = tmp_path / "extra_model_paths.yaml"
    path.touch()
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(FolderError, match=r"cannot be read \(.*Permission denied\)"):
        read_extra_paths(path)


def test_without_extra_paths(tmp_path):
    assert read_extra_paths(tmp_path / "absent.yaml") == {}
    (tmp_path / "empty.yaml").touch()
    assert read_extra_paths(Path(tmp_path / "empty.yaml")) == {}
