"""`scripts/update`: what it writes, what it refuses, and which pictures it names."""

from __future__ import annotations

import copy
import json

import pytest
from wan_s2v_pack.scripts import updating

SAMPLER = "WanS2VSampler"


@pytest.fixture
def info():
    """What a ComfyUI says of one node."""
    node = {"python_module": updating.MODULE, "input": {"required": {"steps": ["INT", {"default": 40}]}}}
    return {SAMPLER: {**node, "output": ["CLIPS"], "output_is_list": [False]}}


@pytest.fixture
def update(info, monkeypatch, tmp_path, capsys):
    """Arguments -> exit status, paths written, what it says; workflows and ComfyUI stand outside."""
    recorded = updating.schemas_of(copy.deepcopy(info), updating.MODULE)
    monkeypatch.setattr(updating, "ask_own_server", lambda: info)
    monkeypatch.setattr(updating, "read_snapshot", lambda: recorded)
    monkeypatch.setattr(updating, "make_files", lambda object_info: {"workflows/a.json": json.dumps(sorted(object_info))})
    monkeypatch.setattr(updating, "write_changed", lambda files, root, dry_run: WRITE_CHANGED(files, tmp_path, dry_run))
    monkeypatch.setattr(updating, "outdated_pictures", lambda root: [])
    monkeypatch.setattr(updating, "untranslated_pages", list)
    monkeypatch.setattr(updating.rooms, "draw", lambda root: "<svg/>")

    def run(*arguments):
        code = updating.main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return run


WRITE_CHANGED = updating.write_changed
MADE = ["locales/en/nodeDefs.json", "locales/zh/nodeDefs.json", "tests/integration/schemas.json", "workflows/a.json", "docs/images/map.svg"]


def test_everything_is_written_once(update, tmp_path):
    assert update()[:2] == (0, MADE)
    assert SAMPLER in json.loads((tmp_path / "tests/integration/schemas.json").read_text(encoding="utf-8"))
    assert "display_name" in json.loads((tmp_path / MADE[0]).read_text(encoding="utf-8"))[SAMPLER]
    assert update()[:2] == (0, [])


def test_a_check_writes_nothing(update, tmp_path):
    assert update("--check")[:2] == (1, MADE)
    assert list(tmp_path.iterdir()) == []
    update()
    assert update("--check")[:2] == (0, [])


def test_a_change_that_breaks_saved_graphs_is_refused(update, info, tmp_path):
    info[SAMPLER]["input"]["required"]["steps"][0] = "FLOAT"
    code, lines, _ = update()
    assert code == 1
    assert lines[1].strip() == f"{SAMPLER}: type of steps was INT, is FLOAT"
    assert list(tmp_path.iterdir()) == []
    assert update("--breaking")[:2] == (0, MADE)


def test_pictures_are_named_with_the_command_that_takes_them(tmp_path, monkeypatch):
    found = [(tmp_path / "A.png", updating.HELP_PICTURES), (tmp_path / "B.png", updating.HELP_PICTURES), (tmp_path / "c.jpg", "draw")]
    monkeypatch.setattr(updating, "outdated_pictures", lambda root: found)
    assert list(updating.picture_lines(tmp_path))[1:] == ["  scripts/help-pictures A B", "  draw  (c)"]
    monkeypatch.setattr(updating, "outdated_pictures", lambda root: [])
    assert list(updating.picture_lines(tmp_path)) == []


def test_pages_that_are_not_translated_are_named(update, monkeypatch):
    monkeypatch.setattr(updating, "untranslated_pages", lambda: ["A/zh.md", "B/zh.md"])
    assert "Help pages that are shown in English: web/docs/A/zh.md, web/docs/B/zh.md" in update()[2]
