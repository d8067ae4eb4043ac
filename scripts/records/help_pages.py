"""The help pages of the nodes, and what their tables have to say according to the record of the nodes.

ComfyUI's front end looks for `web/docs/<node id>/<language>.md`, else for `web/docs/<node id>.md`, which is English. Its panel is narrow:
a table has two columns, and a default stands at the end of the meaning.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from scripts.records.schemas import GROUPS, read_snapshot

HELP = Path(__file__).resolve().parents[2] / "web" / "docs"
DEFAULT = re.compile(r" Default: (.+)\.$")
HEAD = re.compile(r"^\|.*\n\|[-:| ]+\|$", re.MULTILINE)  # of a table
LONGEST_DEFAULT = 60  # characters; longer ones are described in words
Rows = list[list[str]]


def read_page(node: str) -> str:
    return (HELP / f"{node}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one; empty without the heading."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def table(text: str) -> Rows:
    """Cells of the rows of all tables, without their heads."""
    rows = HEAD.sub("", text).splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]


def defaults_on(text: str) -> dict[str, str | None]:
    """Input -> the default that the table of a page names, None where it names none."""
    found = {row[0].strip("`"): DEFAULT.search(row[1]) for row in table(section(text, "Inputs"))}
    return {name: match[1] if match else None for name, match in found.items()}


def outputs_on(text: str) -> list[str]:
    return [row[0].strip("`") for row in table(section(text, "Outputs"))]


def recorded_defaults(node: str) -> dict[str, str | None]:
    """Input -> its default as a page has to write it; None without one, empty where the page has to say it in words."""
    record = read_snapshot()[node]
    return {item["name"]: default_text(item.get("default")) for group in GROUPS for item in record[group]}


def default_text(value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "on" if value else "off"
        case "":
            return "empty"
    return "" if len(str(value)) > LONGEST_DEFAULT else f"`{value}`"
