"""The help pages of the nodes, and what their tables have to say according to the record of the nodes.

ComfyUI's front end looks for `web/docs/<node id>/<language>.md`, else for `web/docs/<node id>.md`, which is English. Its panel can be as
narrow as 235 px: a table has two columns, the default stands at the end of the meaning, and `<wbr>` says where a long name may break.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.records.node_texts import languages, node_texts
from scripts.records.schemas import GROUPS, read_snapshot

HELP = Path(__file__).resolve().parents[2] / "web" / "docs"
HEAD = re.compile(r"^\|.*\n\|[-:| ]+\|$", re.MULTILINE)  # of a table
BOLD = re.compile(r"\*\*(.+?)\*\*")
LONGEST_DEFAULT = 60  # characters; longer ones are described in words


@dataclass(frozen=True)
class Words:
    """What a page calls its parts in one language."""

    inputs: str
    outputs: str
    cost: str
    default: re.Pattern[str]
    on: str
    off: str
    empty: str


WORDS = {
    "en": Words("Inputs", "Outputs", "Cost", re.compile(r" Default: (.+)\.$"), on="on", off="off", empty="empty"),
    "zh": Words(
        "\u8f93\u5165",
        "\u8f93\u51fa",
        "\u5f00\u9500",
        re.compile("\u9ed8\u8ba4\uff1a(.+)\u3002$"),
        on="\u5f00\u542f",
        off="\u5173\u95ed",
        empty="\u7a7a",
    ),
}


def page_path(node: str, language: str = "en") -> Path:
    return HELP / (f"{node}.md" if language == "en" else f"{node}/{language}.md")


def read_page(node: str, language: str = "en") -> str:
    return page_path(node, language).read_text(encoding="utf-8")


def untranslated_pages() -> list[str]:
    """Pages that ComfyUI shows in English to readers of another of our languages."""
    paths = [page_path(node, language) for language in languages() for node in node_texts()]
    return [path.relative_to(HELP).as_posix() for path in paths if not path.is_file()]


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level, up to the next one; empty without the heading."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def table(text: str) -> list[list[str]]:
    """Cells of the rows of all tables, without their heads."""
    rows = HEAD.sub("", text).splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]


def named_in(cell: str) -> str:
    """The name that a row of inputs or outputs is about."""
    found = BOLD.match(cell)
    return found[1].replace("<wbr>", "") if found else cell


def defaults_on(text: str, language: str = "en") -> dict[str, str | None]:
    """Input -> the default that the table of a page names, None where it names none."""
    words = WORDS[language]
    found = {named_in(row[0]): words.default.search(row[1]) for row in table(section(text, words.inputs))}
    return {name: re.sub("<wbr>|`", "", match[1]) if match else None for name, match in found.items()}


def outputs_on(text: str, language: str = "en") -> list[str]:
    return [named_in(row[0]) for row in table(section(text, WORDS[language].outputs))]


def recorded_defaults(node: str, language: str = "en") -> dict[str, str | None]:
    """Input -> its default as a page has to write it; None without one, empty where the page has to say it in words."""
    record = read_snapshot()[node]
    return {item["name"]: default_text(item.get("default"), language) for group in GROUPS for item in record[group]}


def default_text(value: Any, language: str = "en") -> str | None:
    match value:
        case None:
            return None
        case bool():
            return WORDS[language].on if value else WORDS[language].off
        case "":
            return WORDS[language].empty
    return "" if len(str(value)) > LONGEST_DEFAULT else str(value)
