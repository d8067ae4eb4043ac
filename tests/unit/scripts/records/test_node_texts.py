"""The files of the languages, as scripts/update writes them."""

from __future__ import annotations

import json

import pytest
from wan_s2v_pack.scripts.records import node_texts

ENGLISH = {"Node": {"display_name": "Node", "inputs": {"x": {"name": "x", "tooltip": "How much."}}}}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A translation -> the file that is written of it."""
    monkeypatch.setattr(node_texts, "LOCALES", tmp_path)
    monkeypatch.setattr(node_texts, "node_texts", lambda: ENGLISH)

    def write(translation):
        for language, texts in {"en": {}, "zh": translation}.items():
            (tmp_path / language).mkdir()
            (tmp_path / language / "nodeDefs.json").write_text(json.dumps(texts), encoding="utf-8")
        return {path: json.loads(text) for path, text in node_texts.locale_files().items()}

    return write


def test_english_is_what_the_nodes_say(written):
    assert written({})["locales/en/nodeDefs.json"] == ENGLISH


def test_texts_that_are_gone_leave_the_translation(written):
    gone = {"Old": {"display_name": "A"}, "Node": {"display_name": "B", "inputs": {"y": {"name": "C"}, "x": {"tooltip": "D"}}}}
    assert written(gone)["locales/zh/nodeDefs.json"] == {"Node": {"display_name": "B", "inputs": {"x": {"tooltip": "D"}}}}


def test_what_is_not_translated_is_not_made_up(written):
    assert written({"Node": {"display_name": "B"}})["locales/zh/nodeDefs.json"] == {"Node": {"display_name": "B"}}
