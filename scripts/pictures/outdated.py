"""Which pictures are older than what they show: nodes on the help pages, the cards of the templates, the quick start on the canvas.

What a run draws inside a node (a plot, a preview) is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from scripts.pictures.help_scenes import SCENES, Scene
from scripts.pictures.marks import mark, mark_of
from scripts.pictures.thumbnails import card_mark
from scripts.records.node_texts import node_texts
from scripts.records.schemas import GROUPS, read_snapshot
from scripts.workflows.graphs import QUICK_START, WORKFLOWS

ROOT = Path(__file__).resolve().parents[2]
HELP_PICTURES = "scripts/help-pictures"  # takes the ids of nodes
SHOWN_OF_AN_INPUT = ("name", "type", "default")


def outdated_pictures(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """(picture, the command that makes it anew) of every one that is missing, has no mark, or shows something else."""
    for path, command, mark_now in _pictures(root):
        if not path.is_file() or mark_of(path) != mark_now():
            yield path, command


def _pictures(root: Path) -> Iterator[tuple[Path, str, Callable[[], str]]]:
    for name in SCENES:
        yield root / "web" / "docs" / "images" / f"{name}.png", HELP_PICTURES, lambda name=name: scene_mark(name, SCENES[name])
    for workflow in WORKFLOWS:
        yield root / workflow.picture, "python scripts/pictures/thumbnails.py", lambda name=workflow.name: card_mark(name)
    yield root / "docs" / "images" / "quick_start.png", "scripts/screenshot", lambda: graph_mark(ROOT / QUICK_START.file)


def scene_mark(name: str, scene: Scene) -> str:
    """Of a node in a picture: its values and its run, its title, inputs, defaults and outputs."""
    texts, recorded = node_texts()[name], read_snapshot()[name]
    sockets = [[{key: item.get(key) for key in SHOWN_OF_AN_INPUT} for item in recorded[group]] for group in GROUPS]
    return mark(asdict(scene), texts["display_name"], sockets, [output["name"] for output in texts["outputs"].values()])


def graph_mark(workflow: Path) -> str:
    """Of a whole workflow on the canvas."""
    return mark(json.loads(workflow.read_text(encoding="utf-8")))
