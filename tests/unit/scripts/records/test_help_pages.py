"""What is read out of a help page."""

from __future__ import annotations

from wan_s2v_pack.scripts.records.help_pages import default_text, defaults_on, named_in, outputs_on, page_path, section

PAGE = """# Node

## Inputs

| Input | Meaning |
|---|---|
| **a_<wbr>b** | How many. Default: `1.0`. |
| **host** | Where. Default: 127.0.0.1:<wbr>8190. |
| **c** | From another node. |

## Outputs

| Output | Meaning |
|---|---|
| **d** | A video. |
"""


def test_names_and_defaults_are_read_without_their_marks():
    assert defaults_on(PAGE) == {"a_b": "1.0", "host": "127.0.0.1:8190", "c": None}
    assert outputs_on(PAGE) == ["d"]
    assert section(PAGE, "Cost") == ""
    assert named_in("**a_<wbr>b** \u7532") == "a_b"


def test_defaults_are_written_as_the_node_shows_them():
    values = [None, True, False, "", "x" * 61, 1.0, "file"]
    assert [default_text(value) for value in values] == [None, "on", "off", "empty", "", "1.0", "file"]
    assert default_text(True, "zh") == "\u5f00\u542f"


def test_another_language_has_a_folder_for_each_node():
    assert page_path("Node", "zh").parts[-2:] == ("Node", "zh.md")
    assert page_path("Node").name == "Node.md"
