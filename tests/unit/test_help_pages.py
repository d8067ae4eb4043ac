"""Every help page names each input with its default and each output, fits the narrow panel, has a picture, and says what options cost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from wan_s2v_pack.scripts.records.help_pages import HELP, default_text, defaults_on, outputs_on, recorded_defaults
from wan_s2v_pack.scripts.records.help_pages import read_page as page
from wan_s2v_pack.scripts.records.node_texts import CONTROL, ROOT, node_texts

NODES = sorted(node_texts())
PICTURE = re.compile(r"^!\[(.+)\]\((images/\w+\.png)\)$", re.MULTILINE)
SMALLEST_PX, LARGEST_PX, LARGEST_BYTES = 300, 1900, 200_000
LONGEST_PAGE = 140  # lines


def name_of(node: str) -> str:
    return f"web/docs/{node}.md"


def test_every_node_has_a_page_and_every_page_a_node():
    assert sorted(path.stem for path in HELP.glob("*.md")) == NODES, "web/docs: a node without <node id>.md, or a page without its node"


@pytest.mark.parametrize("node", NODES)
def test_a_page_names_the_title_the_inputs_and_the_outputs_of_its_node(node):
    texts, text = node_texts()[node], page(node)
    assert text.splitlines()[0] == f"# {texts['display_name']}", f"the title of {name_of(node)}"
    assert list(defaults_on(text)) == [name for name in texts["inputs"] if name != CONTROL], f"the table of inputs in {name_of(node)}"
    assert outputs_on(text) == [output["name"] for output in texts["outputs"].values()], f"the table of outputs in {name_of(node)}"


@pytest.mark.parametrize("node", NODES)
def test_a_page_names_every_default(node):
    """At the end of the meaning; a default that is too long for a table is put into words."""
    named, recorded = defaults_on(page(node)), recorded_defaults(node)
    assert named.keys() == recorded.keys(), f"{name_of(node)}, or tests/integration/schemas.json: run scripts/update"
    wrong = {name: named[name] for name, default in recorded.items() if not says_default(named[name], default)}
    assert wrong == {}, f"{name_of(node)}: the meaning has to end with Default: {[recorded[name] for name in wrong]}"


def says_default(named: str | None, recorded: str | None) -> bool:
    return bool(named) and "`" not in str(named) if recorded == "" else named == recorded


def test_defaults_are_written_as_the_node_shows_them():
    values = [None, True, False, "", "x" * 61, 1.0, "file"]
    assert [default_text(value) for value in values] == [None, "on", "off", "empty", "", "`1.0`", "`file`"]
    assert says_default("the model's own", "")
    assert not says_default(None, "")
    assert not says_default("`x`", "")
    assert not says_default(None, "on")


@pytest.mark.parametrize("node", NODES)
def test_every_table_has_two_columns(node):
    wider = [row for row in re.findall(r"^\|.*\|$", page(node), re.MULTILINE) if row.count("|") != 3]
    assert wider == [], f"{name_of(node)}: the panel is too narrow for more than two columns"


@pytest.mark.parametrize("node", NODES)
def test_the_picture_stands_above_the_inputs(node):
    pictures = PICTURE.findall(page(node).split("\n## ")[0])
    title = node_texts()[node]["display_name"].removesuffix(" (Wan S2V)")
    found = [path for caption, path in pictures if title in caption]
    assert found == [f"images/{node}.png"], f"{name_of(node)}: above its inputs belongs ![{title} ...](images/{node}.png)"


@pytest.mark.parametrize("node", NODES)
def test_the_picture_is_there_and_small(node):
    path = HELP / "images" / f"{node}.png"
    assert path.is_file(), f"web/docs/images/{node}.png is missing: run scripts/help-pictures {node}, and look at it"
    assert path.stat().st_size <= LARGEST_BYTES
    with Image.open(path) as picture:
        assert all(SMALLEST_PX <= side <= LARGEST_PX for side in picture.size)
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 20)) > 16, "the picture is empty"


def test_there_is_no_other_picture():
    strangers = {path.name for path in (HELP / "images").iterdir()} - {f"{node}.png" for node in NODES}
    assert strangers == set(), "in web/docs/images, of no node: delete them"


@pytest.mark.parametrize("node", NODES)
def test_the_page_says_what_options_cost(node):
    assert "\n## Cost\n" in page(node), f"{name_of(node)} has no section Cost"
    cost = page(node).split("\n## Cost\n")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", cost))
    strange = {name for name in named if "_" in name} - set(node_texts()[node]["inputs"]) - KNOWN_ELSEWHERE
    assert len(cost.split()) > 10, f"{name_of(node)}: say in Cost what its options cost"
    assert strange == set(), f"{name_of(node)}: its section Cost names inputs that the node does not have"


KNOWN_ELSEWHERE = {"cfg_start_percent", "cfg_end_percent", "dpm_2"}


def test_every_node_has_a_scene():
    """Of scripts/pictures/help_scenes.py, which is read here and not run."""
    source = (ROOT / "scripts" / "pictures" / "help_scenes.py").read_text(encoding="utf-8")
    scenes = re.findall(r'^    "(WanS2V\w+)": Scene\(', source, re.MULTILINE)
    assert sorted(scenes) == NODES, "scripts/pictures/help_scenes.py: add the scene, then run scripts/help-pictures"


def test_a_page_is_no_longer_than_a_page():
    too_long = {name_of(node): len(page(node).splitlines()) for node in NODES if len(page(node).splitlines()) > LONGEST_PAGE}
    assert too_long == {}, f"more than {LONGEST_PAGE} lines"


def test_pictures_come_with_the_archive():
    left_out = (Path(ROOT) / ".comfyignore").read_text(encoding="utf-8").split()
    assert not {"/web/", "/locales/", "*.png"} & set(left_out)
