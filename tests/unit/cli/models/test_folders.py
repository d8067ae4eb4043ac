"""Where ComfyUI and its model folders are found."""

from __future__ import annotations

import http.server
import json
import os
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli.models import folders as model_folders
from wan_s2v_pack.cli.models.folders import FolderError, find_base, find_comfyui, find_model_folders, read_extra_paths

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
    return make_comfyui(tmp_path / "ComfyUI")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No ComfyUI is named, none runs here, and none is around the place from which the tests were started."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("PWD", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_folders.sys, "argv", ["pytest"])
    monkeypatch.setattr(model_folders, "USUAL_ADDRESSES", ())


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


def test_folders_of_the_desktop_app_around_the_pack(tmp_path, monkeypatch):
    """The program lies elsewhere."""
    base = tmp_path / "Documents" / "ComfyUI"
    (base / "output").mkdir(parents=True)
    (base / "models").mkdir()
    monkeypatch.setattr(model_folders, "ROOT", base / "custom_nodes" / "wan-s2v")
    monkeypatch.setenv("PWD", str(tmp_path))
    assert find_base(None) == base
    assert find_comfyui(None) is None
    assert find_base(base) == base
    assert find_model_folders(find_base(None), None).models == base / "models"


def test_a_pack_that_is_called_by_its_path_is_found_through_a_link(comfyui, tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "ROOT", tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(model_folders.sys, "argv", [str(comfyui / "custom_nodes" / "linked" / "wan_s2v_cli.py")])
    assert find_comfyui(None) == comfyui


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A server as that of the Desktop app: program and folders apart."""
    program, base = make_comfyui(tmp_path / "app" / "ComfyUI"), tmp_path / "Documents" / "ComfyUI"
    (base / "models").mkdir(parents=True)
    answers = {
        "/system_stats": {"system": {"argv": [str(program / "main.py"), "--port", "8000"]}},
        "/internal/folder_paths": {"custom_nodes": [str(base / "custom_nodes")]},
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(model_folders, "USUAL_ADDRESSES", ("http://127.0.0.1:9", f"http://127.0.0.1:{server.server_port}"))
        yield program, base
        server.shutdown()


def test_a_running_comfyui_is_asked(running, tmp_path, monkeypatch):
    program, base = running
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setattr(model_folders, "ROOT", base / "custom_nodes" / "wan-s2v")
    assert (find_comfyui(None), find_base(None)) == (program, base)
    monkeypatch.setattr(model_folders, "ROOT", tmp_path)
    assert find_comfyui(None) == program


def test_no_comfyui(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "ROOT", tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    assert find_comfyui(None) is None
    with pytest.raises(FolderError, match="No ComfyUI was found"):
        find_model_folders(None, None)
    with pytest.raises(FolderError, match=r"no main\.py"):
        find_comfyui(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_extra_paths_in_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "extra_model_paths.yaml")
    with pytest.raises(FolderError, match="it is no plain file"):
        read_extra_paths(tmp_path / "extra_model_paths.yaml")


@pytest.mark.parametrize(
    "content", ["a:\n" * 30_000, "[" * 20_000, "- x", "a: [" + "x, " * 1000], ids=["too large", "deep", "list", "open"]
)
def test_extra_paths_that_are_none(content, tmp_path):
    path = tmp_path / "extra_model_paths.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FolderError, match=r"extra_model_paths\.yaml cannot be read \(") as caught:
        read_extra_paths(path)
    assert len(str(caught.value)) < 600


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
    monkeypatch.setattr(model_folders, "read_plain", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(FolderError, match=r"cannot be read \(.*Permission denied\)"):
        read_extra_paths(path)


def test_without_extra_paths(tmp_path):
    assert read_extra_paths(tmp_path / "absent.yaml") == {}
    (tmp_path / "empty.yaml").touch()
    assert read_extra_paths(Path(tmp_path / "empty.yaml")) == {}
