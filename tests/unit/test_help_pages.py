"""Every help page names each input with its default and each output, fits the narrow panel, has a picture, and says what options cost.

A page in another language says the same as the English one. Where it is missing, or lacks something, there is a warning: ComfyUI shows the
English page, and not everybody who changes a page knows every language.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from wan_s2v_pack.scripts.records.help_pages import (
    HELP,
    WORDS,
    defaults_on,
    named_in,
    outputs_on,
    page_path,
    read_page,
    recorded_defaults,
    section,
    table,
    untranslated_pages,
)
from wan_s2v_pack.scripts.records.node_texts import CONTROL, ROOT, UntranslatedText, languages, node_texts, read_locale

NODES = sorted(node_texts())
PAGES = [(node, language) for language in languages() for node in NODES if page_path(node, language).is_file()]
TRANSLATED = [page for page in PAGES if page[1] != "en"]
PICTURE = re.compile(r"^!\[(.+)\]\((images/\w+\.png)\)$", re.MULTILINE)
WIDTHS_PX, HEIGHTS_PX, LARGEST_BYTES = range(580, 780), range(150, 1400), 120_000  # shown at half its size
LONGEST_PAGE = 110  # lines
LINK = re.compile(r"\]\([^)]*\)")
CODE = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*[A-Za-z_])")
PANEL_PX, PADDING_PX = 235, 32  # the panel on a screen of 1366 px, and around the two columns of a table
each_node = pytest.mark.parametrize("node", NODES)
each_page = pytest.mark.parametrize(("node", "language"), PAGES)
each_translation = pytest.mark.parametrize(("node", "language"), TRANSLATED)


def name_of(node: str, language: str = "en") -> str:
    return page_path(node, language).relative_to(ROOT).as_posix()


# --- what the node has


def test_every_node_has_a_page_and_every_page_a_node():
    assert sorted(path.stem for path in HELP.glob("*.md")) == NODES, "web/docs: a node without <node id>.md, or a page without its node"
    known = {page_path(node, language) for node in NODES for language in languages()}
    assert set(HELP.rglob("*.md")) <= known, "web/docs: a page of no node, or of a language without locales/<language>"


@each_page
def test_a_page_has_the_title_of_its_node(node, language):
    title = read_locale(language).get(node, {}).get("display_name", node_texts()[node]["display_name"])
    assert read_page(node, language).splitlines()[0] == f"# {title}", f"the title of {name_of(node, language)}"


@each_page
def test_a_page_names_the_inputs_and_outputs_of_its_node(node, language):
    texts, text = node_texts()[node], read_page(node, language)
    inputs, outputs = [name for name in texts["inputs"] if name != CONTROL], [output["name"] for output in texts["outputs"].values()]
    assert names_all(list(defaults_on(text, language)), inputs, node, language), f"the table of inputs in {name_of(node, language)}"
    assert names_all(outputs_on(text, language), outputs, node, language), f"the table of outputs in {name_of(node, language)}"


def names_all(named: list[str], expected: list[str], node: str, language: str) -> bool:
    """The same in the same order; a translation may lack some, with a warning."""
    missing = [name for name in expected if name not in named]
    if missing and language != "en":
        warn(f"{name_of(node, language)} lacks {', '.join(missing)}")
        return named == [name for name in expected if name in named]
    return named == expected


@each_page
def test_a_page_names_every_default(node, language):
    """At the end of the meaning; a default that is too long for a table is put into words."""
    named, recorded = defaults_on(read_page(node, language), language), recorded_defaults(node, language)
    assert named.keys() <= recorded.keys(), f"{name_of(node, language)}, or tests/integration/schemas.json: run scripts/update"
    wrong = [name for name in named if (not named[name] if recorded[name] == "" else named[name] != recorded[name])]
    assert wrong == [], f"{name_of(node, language)}: the meaning has to end with the default: {[recorded[name] for name in wrong]}"


@each_translation
def test_a_translation_has_the_names_that_the_node_shows(node, language):
    """Behind the name of the input or output."""
    words, text, labels = WORDS[language], read_page(node, language), read_locale(language)[node]
    by_name = {label["name"] for group in ("inputs", "outputs") for label in labels[group].values()}
    cells = [row[0] for title in (words.inputs, words.outputs) for row in table(section(text, title))]
    shown = {named_in(cell): cell.rpartition("**")[2].strip() or named_in(cell).upper() for cell in cells}
    assert {name: label for name, label in shown.items() if label not in by_name} == {}, (
        f"{name_of(node, language)}: see locales/{language}"
    )


# --- the same in every language


def test_a_page_that_is_not_translated_is_a_warning():
    if missing := untranslated_pages():
        warn(f"web/docs: not translated: {', '.join(missing)}")


@each_translation
def test_a_translation_says_what_the_english_page_says(node, language):
    for difference in differences(read_page(node), read_page(node, language)):
        warn(f"{name_of(node, language)}: {difference}")


def differences(english: str, translated: str) -> Iterator[str]:
    if lost := set(FIGURE.findall(english)) - set(FIGURE.findall(translated)):
        yield f"lacks the figures {', '.join(sorted(lost))}"
    if lost := set(CODE.findall(english)) - set(CODE.findall(translated)):
        yield f"lacks {', '.join(sorted(lost))}"
    kinds = [[line[:2] for line in text.splitlines() if line[:2] in ("# ", "##", "| ", "![")] for text in (english, translated)]
    if kinds[0] != kinds[1]:
        yield "has other headings or rows than the English page"


def test_differences_are_found():
    english = "# A\n\n| Input | Meaning |\n|---|---|\n| **a** | 5 of `b`. |\n"
    assert list(differences(english, english)) == []
    assert list(differences(english, english.replace("5", "6"))) == ["lacks the figures 5"]
    assert list(differences(english, english.replace("`b`", "b"))) == ["lacks b"]
    assert list(differences(english, english + "| **c** | new |\n")) == ["has other headings or rows than the English page"]


def warn(text: str) -> None:
    warnings.warn(UntranslatedText(text), stacklevel=2)


# --- the narrow panel


@each_page
def test_every_table_has_two_columns(node, language):
    wider = [row for row in re.findall(r"^\|.*\|$", read_page(node, language), re.MULTILINE) if row.count("|") != 3]
    assert wider == [], f"{name_of(node, language)}: the panel is too narrow for more than two columns"


@each_page
def test_nothing_is_wider_than_the_panel(node, language):
    text, advice = read_page(node, language), "put <wbr> where a word may break; code breaks at blanks and hyphens only"
    for block in text.split("\n\n"):
        rows = [row.strip("|").split("|") for row in block.splitlines() if row.startswith("| ")]
        columns = list(zip(*rows, strict=True)) if rows else [[block]]
        widest = [max((piece for cell in column for piece in pieces(cell)), key=width_px, default="") for column in columns]
        assert sum(width_px(piece) for piece in widest) + PADDING_PX * len(rows[:1]) <= PANEL_PX, (
            f"{name_of(node, language)}: {advice}: {widest}"
        )


def pieces(text: str) -> Iterator[str]:
    """What cannot break; of code with its marks and what stands right behind it."""
    for code, behind in re.findall(r"`([^`]+)`([^\w\s`]?)", text):
        *others, last = re.split(r"[\s-]", code)
        yield from (f"`{piece}`" for piece in others)
        yield f"`{last}`{behind}"
    words = re.sub(r"[*()]", "", LINK.sub("]", CODE.sub(" ", text)))
    yield from re.split(r"[\s-]|<wbr>|[\u3000-\uffff]", words)


def width_px(piece: str) -> float:
    """Letters of code are wider, and have a border; a Chinese comma is as wide as two letters."""
    _, code, behind = piece.split("`") if "`" in piece else ("", "", piece)
    return (8.5 * len(code) + 12 if code else 0) + sum(14 if letter > "\u3000" else 7.2 for letter in behind)


def test_pieces_of_text_and_code():
    found = list(pieces("a `b_c d-e`, **f_<wbr>g** [text](https://example.org/long)"))
    assert found == ["`b_c`", "`d`", "`e`,", "a", "", ",", "f_", "g", "[text]"]
    assert width_px("`abcd`") == 46 > width_px("abcd")
    assert width_px("`abcd`\u3001") == 60


@each_page
def test_a_page_is_no_longer_than_a_page(node, language):
    assert len(read_page(node, language).splitlines()) <= LONGEST_PAGE, name_of(node, language)


def test_code_does_not_scroll():
    """A block of code would scroll sideways; code in a line breaks."""
    blocks = [name_of(*page) for page in PAGES if re.search(r"^(?:```| {4}\S)", read_page(*page), re.MULTILINE)]
    assert blocks == []


# --- pictures


@each_page
def test_the_picture_stands_above_the_inputs(node, language):
    """Its path is seen from web/docs in every language: the front end puts that in front of it."""
    pictures = PICTURE.findall(read_page(node, language).split("\n## ")[0])
    title = re.sub(r" ?\(Wan S2V\)$", "", read_page(node, language).splitlines()[0].removeprefix("# "))
    found = [path for caption, path in pictures if title in caption]
    assert found == [f"images/{node}.png"], f"{name_of(node, language)}: above its inputs belongs ![{title} ...](images/{node}.png)"


@each_node
def test_the_picture_is_there_and_small(node):
    path = HELP / "images" / f"{node}.png"
    assert path.is_file(), f"web/docs/images/{node}.png is missing: run scripts/help-pictures {node}, and look at it"
    assert path.stat().st_size <= LARGEST_BYTES
    with Image.open(path) as picture:
        assert picture.width in WIDTHS_PX, "one node, so that it can be read in the panel"
        assert picture.height in HEIGHTS_PX
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 20)) > 16, "the picture is empty"


def test_there_is_no_other_picture():
    strangers = {path.name for path in (HELP / "images").iterdir()} - {f"{node}.png" for node in NODES}
    assert strangers == set(), "in web/docs/images, of no node: delete them"


def test_every_node_has_a_scene():
    """Of scripts/pictures/help_scenes.py, which is read here and not run."""
    source = (ROOT / "scripts" / "pictures" / "help_scenes.py").read_text(encoding="utf-8")
    scenes = re.findall(r'^    "(WanS2V\w+)": Scene\(', source, re.MULTILINE)
    assert sorted(scenes) == NODES, "scripts/pictures/help_scenes.py: add the scene, then run scripts/help-pictures"


def test_pictures_come_with_the_archive():
    left_out = (Path(ROOT) / ".comfyignore").read_text(encoding="utf-8").split()
    assert not {"/web/", "/locales/", "*.png"} & set(left_out)


# --- cost


KNOWN_ELSEWHERE = {"cfg_start_percent", "cfg_end_percent", "dpm_2"}


@each_page
def test_the_page_says_what_options_cost(node, language):
    cost = section(read_page(node, language), WORDS[language].cost)
    named = set(re.findall(r"`(\w+)`", cost))
    strange = {name for name in named if "_" in name} - set(node_texts()[node]["inputs"]) - KNOWN_ELSEWHERE
    assert len(cost) > 40, f"{name_of(node, language)}: say in its last section what its options cost"
    assert strange == set(), f"{name_of(node, language)}: its section {WORDS[language].cost} names inputs that the node does not have"
