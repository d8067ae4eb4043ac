"""The translation files say what the nodes say. After changing a text of a node:

    UPDATE_LOCALES=1 scripts/test tests/unit/test_locales.py

writes locales/en; the other languages are translated by hand, and these tests name what is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from wan_s2v_pack.tests.node_texts import CONTROL, LOCALES, aliases, categories, node_texts, read_locale, write_locale

UPDATE = "UPDATE_LOCALES"
TRANSLATED = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
MESSAGE_SYNTAX = set("{}@|")  # have a meaning in messages of vue-i18n, as which titles and descriptions are read
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
UNTRANSLATED = {"GPU"}
LONGEST_NAME = 4  # words: the choice "fp8 linears and attention"


def leaves(texts: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, text) of a nested dictionary."""
    if isinstance(texts, str):
        yield path, texts
        return
    for key, value in texts.items():
        yield from leaves(value, (*path, key))


def test_english_is_what_the_nodes_say():
    if os.environ.get(UPDATE):
        write_locale("en", node_texts())
    assert read_locale("en") == node_texts(), f"a text was changed: set {UPDATE}=1, run this test once, and translate what is new"


@pytest.mark.parametrize("node", sorted(node_texts()))
def test_a_node_says_what_it_is_for(node):
    texts = node_texts()[node]
    nameless = [path for path, text in leaves(texts) if not text.strip()]
    without_tooltip = [name for name, entry in texts["inputs"].items() if name != CONTROL and "tooltip" not in entry]
    assert nameless == without_tooltip == []
    assert len(set(aliases()[node])) == len(aliases()[node]) > 0, "search_aliases is empty or says something twice"
    assert texts["description"].endswith("."), "the description is a sentence"


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_every_text_and_no_other(language):
    english, translated = dict(leaves(read_locale("en"))), dict(leaves(read_locale(language)))
    assert sorted(set(english) - set(translated)) == []
    assert sorted(set(translated) - set(english)) == []
    assert [path for path, text in translated.items() if not text.strip()] == []


def test_chinese_is_chinese():
    """What is left in Latin letters is a name, a value or a unit that the English text has too."""
    english, chinese = dict(leaves(read_locale("en"))), dict(leaves(read_locale("zh")))
    assert [path for path, text in chinese.items() if path[-1] != "name" and not CHINESE.search(text)] == []
    foreign = {path: [word for word in WORD.findall(text) if word.lower() not in english[path].lower()] for path, text in chinese.items()}
    assert {path: words for path, words in foreign.items() if set(words) - UNTRANSLATED} == {}
    assert [path for path, text in chinese.items() if re.search(rf"(?:[A-Za-z]+ ){{{LONGEST_NAME}}}[A-Za-z]", text)] == []


def test_chinese_gives_every_figure():
    """A range or a size that the English text names is not lost in translation."""
    english, chinese = dict(leaves(read_locale("en"))), dict(leaves(read_locale("zh")))

    def figures(text: str) -> set[str]:
        return set(re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*[A-Za-z_])", text))

    assert {path: figures(text) - figures(chinese[path]) for path, text in english.items() if figures(text) - figures(chinese[path])} == {}


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_the_front_end_can_read_titles_and_descriptions(language):
    read = [(path, text) for path, text in leaves(read_locale(language)) if path[-1] != "tooltip"]
    assert [path for path, text in read if MESSAGE_SYNTAX & set(text)] == []


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_titles_differ(language):
    titles = [texts["display_name"] for texts in read_locale(language).values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_our_part_of_the_menu_has_a_name(language):
    (own,) = categories() - {"loaders", "conditioning", "sampling", "video", "audio"}  # of ComfyUI, which translates them
    assert read_locale(language, "main.json")["nodeCategories"].keys() == {own}
