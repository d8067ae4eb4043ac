"""The translation files say what the nodes say.

After changing a text of a node `scripts/update` writes locales/en, and takes texts that are gone out of the other languages. What is new
there is translated by hand: until then ComfyUI shows it in English, and the tests warn.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from wan_s2v_pack.scripts.records.node_texts import CONTROL, UntranslatedText, aliases, categories, languages, node_texts, read_locale

TRANSLATED = [language for language in languages() if language != "en"]
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


ENGLISH = dict(leaves(read_locale("en")))


def file_of(language: str) -> str:
    return f"locales/{language}/nodeDefs.json"


def test_english_is_what_the_nodes_say():
    recorded, said = read_locale("en"), node_texts()
    changed = [node for node in sorted({*recorded, *said}) if recorded.get(node) != said.get(node)]
    assert changed == [], f"texts of these nodes have changed, {file_of('en')} has not: run scripts/update, and translate what is new"


@pytest.mark.parametrize("node", sorted(node_texts()))
def test_a_node_says_what_it_is_for(node):
    texts = node_texts()[node]
    nameless = [path for path, text in leaves(texts) if not text.strip()]
    without_tooltip = [name for name, entry in texts["inputs"].items() if name != CONTROL and "tooltip" not in entry]
    assert nameless == without_tooltip == []
    assert len(set(aliases()[node])) == len(aliases()[node]) > 0, "search_aliases is empty or says something twice"
    assert texts["description"].endswith("."), "the description is a sentence"


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_no_text_that_is_gone(language):
    gone = sorted(".".join(path) for path in set(translations(language)) - set(ENGLISH))
    assert gone == [], f"{file_of(language)} has texts that no node has any more: run scripts/update, which takes them out"


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_every_text(language):
    """Or there is a warning: not everybody who adds a text knows every language."""
    warn_of_untranslated(language, translations(language), ENGLISH)


def translations(language: str) -> dict[tuple[str, ...], str]:
    return dict(leaves(read_locale(language)))


def warn_of_untranslated(language, translated, english) -> None:
    missing = [".".join(path) for path in english if not translated.get(path, "").strip()]
    if missing:
        warnings.warn(UntranslatedText(f"{file_of(language)}: not translated: {', '.join(missing)}"), stacklevel=2)


def test_an_untranslated_text_is_a_warning_that_names_file_and_text():
    english = {("Node", "description"): "It works.", ("Node", "display_name"): "Node", ("Node", "inputs", "x", "name"): "x"}
    translated = {("Node", "display_name"): "\u8282\u70b9", ("Node", "inputs", "x", "name"): " "}
    with pytest.warns(UntranslatedText, match=r"locales/zh/nodeDefs.json: not translated: Node.description, Node.inputs.x.name$"):
        warn_of_untranslated("zh", translated, english)


def wrong_in_chinese(problems: dict[tuple[str, ...], Any]) -> None:
    named = {".".join(path): problem for path, problem in problems.items()}
    assert named == {}, f"{file_of('zh')}: correct these, or take them out: a text that is not translated is only a warning"


def test_chinese_is_chinese():
    """What is left in Latin letters is a name, a value or a unit that the English text has too."""
    both = {path: text for path, text in translations("zh").items() if path in ENGLISH and text.strip()}
    foreign = {path: {word for word in WORD.findall(text) if word.lower() not in ENGLISH[path].lower()} for path, text in both.items()}
    wrong_in_chinese({path: text for path, text in both.items() if path[-1] != "name" and not CHINESE.search(text)})
    wrong_in_chinese({path: words - UNTRANSLATED for path, words in foreign.items() if words - UNTRANSLATED})
    wrong_in_chinese({path: text for path, text in both.items() if re.search(rf"(?:[A-Za-z]+ ){{{LONGEST_NAME}}}[A-Za-z]", text)})


def test_chinese_gives_every_figure():
    """A range or a size that the English text names is not lost in translation."""

    def figures(text: str) -> set[str]:
        return set(re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*[A-Za-z_])", text))

    lost = {path: figures(ENGLISH[path]) - figures(text) for path, text in translations("zh").items() if path in ENGLISH and text.strip()}
    wrong_in_chinese({path: missing for path, missing in lost.items() if missing})


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_the_front_end_can_read_titles_and_descriptions(language):
    read = [(path, text) for path, text in leaves(read_locale(language)) if path[-1] != "tooltip"]
    assert [path for path, text in read if MESSAGE_SYNTAX & set(text)] == [], f"{file_of(language)}: {MESSAGE_SYNTAX} have a meaning there"


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_titles_differ(language):
    titles = [texts["display_name"] for texts in read_locale(language).values() if "display_name" in texts]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("language", ["en", *TRANSLATED])
def test_our_part_of_the_menu_has_a_name(language):
    (own,) = categories() - {"loaders", "conditioning", "sampling", "video", "audio"}  # of ComfyUI, which translates them
    assert read_locale(language, "main.json")["nodeCategories"].keys() == {own}
