"""The oldest ComfyUI: below it the import of the pack ends in a clear message."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from wan_s2v_pack.wan_s2v_model.comfyui_version import OLDEST_COMFYUI

ROOT = Path(__file__).resolve().parents[2]
IMPORT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", sys.argv[1] + "/__init__.py", submodule_search_locations=[sys.argv[1]])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
"""


def import_into(comfyui: Path) -> str:
    """Import the pack where this folder is on the path, as ComfyUI does; return the last line of the error."""
    result = subprocess.run([sys.executable, "-c", IMPORT, str(ROOT)], cwd=comfyui, capture_output=True, text=True, check=False)
    assert result.returncode
    return result.stderr.splitlines()[-1]


def make_comfyui(folder: Path, version: str | None) -> Path:
    """As much of a ComfyUI as the check looks at."""
    (folder / "folder_paths.py").write_text("")
    if version is not None:
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"')
    return folder


@pytest.mark.parametrize(
    ("version", "named"),
    [("0.24.9", "this is 0.24.9"), ("0.3.75", "this is 0.3.75"), ("0.24", "this is 0.24"), (None, "this is an older one")],
)
def test_too_old(version, named, tmp_path):
    message = import_into(make_comfyui(tmp_path, version))
    assert message.startswith(f"ImportError: Wan S2V needs ComfyUI {OLDEST_COMFYUI} or newer, {named}. Update ComfyUI")


@pytest.mark.parametrize("version", ["0.25.0", "0.25", "0.25.1rc2", "0.31.0-dev", "1.0.0", "nightly"])
def test_new_enough(version, tmp_path):
    assert "No module named 'comfy" in import_into(make_comfyui(tmp_path, version))  # it went on to the nodes


def test_registry_is_told_the_same_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^requires-comfyui = ">=(.+)"$', project, re.MULTILINE)[1] == OLDEST_COMFYUI


@pytest.mark.parametrize("file", ["README.md", "requirements.txt", "docs/packaging.md"])
def test_documents_name_the_same_version(file):
    named = re.findall(r"ComfyUI (?:below )?(\d[\d.]*\d)", (ROOT / file).read_text(encoding="utf-8"))
    assert set(named) == {OLDEST_COMFYUI.removesuffix(".0")}


def test_the_oldest_and_the_newest_are_tried_every_night():
    nightly = (ROOT / ".github" / "workflows" / "nightly.yml").read_text(encoding="utf-8")
    tried = re.search(r"comfyui: \[(.+)\]", nightly)[1].replace('"', "").split(", ")
    assert {f"v{OLDEST_COMFYUI}", "master"} < set(tried)
