"""pyproject.toml as the registry gets it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from wan_s2v_pack.scripts.publishing import main, with_addresses

ROOT = Path(__file__).resolve().parents[3]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
REPOSITORY = "https://example.org/someone/pack"


def value(text: str, key: str) -> str:
    return re.search(rf'^{key} = "([^"]*)"', text, re.MULTILINE)[1]


def test_paths_become_addresses_of_the_commit(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text(PROJECT, encoding="utf-8")
    assert main([f"{REPOSITORY}/", "abc123", str(project)]) == 0
    text = project.read_text(encoding="utf-8")
    assert value(text, "Icon") == f"{REPOSITORY}/raw/abc123/docs/images/icon.png"
    assert value(text, "Banner") == f"{REPOSITORY}/raw/abc123/docs/images/banner.png"
    assert value(text, "Repository") == REPOSITORY
    assert text.count("[tool.comfy]") == 1
    assert value(text, "version") == value(PROJECT, "version")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.comfy]", "0 lines `Icon"),
        (with_addresses(PROJECT, REPOSITORY, "x"), "0 lines `Icon"),
        (PROJECT.replace("[tool.comfy]", "[project.urls]\n[tool.comfy]"), "project.urls already"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        with_addresses(text, REPOSITORY, "x")


@pytest.mark.parametrize(("key", "ratio", "longest_px"), [("Icon", 1, 400), ("Banner", 21 / 9, 2000)])
def test_pictures_have_the_shape_that_the_registry_asks_for(key, ratio, longest_px):
    with Image.open(ROOT / value(PROJECT, key)) as picture:
        assert picture.width / picture.height == pytest.approx(ratio, abs=0.01)
        assert picture.width <= longest_px


def test_nothing_is_installed_besides_comfyui():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == []
    assert "\ndependencies = []" in PROJECT
