"""Which pictures are older than what they show: nodes on the help pages, the cards of the templates, the quick start on the canvas.

What a run draws inside a node (a plot, a preview) is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.pictures.help_scenes import SCENES, Scene
from scripts.pictures.marks import mark, mark_of
from scripts.pictures.thumbnails import CARDS, card_mark
from scripts.records.node_texts import node_texts
from scripts.records.schemas import read_snapshot

ROOT = Path(__file__).resolve().parents[2]
QUICK_START = ROOT / "workflows" / "wan_s2v_quick_start.json"
HELP_PICTURES = "scripts/help-pictures"  # takes the ids of nodes
SHOWN_OF_AN_INPUT = ("name", "type", "default")


def outdated_pictures(root: Path = ROOT) -> Iterator[tuple[Path, str]]:
    """(picture, the command that makes it anew) of every one that is missing, has no mark, or shows something else."""
    for path, command, mark_now in _pictures(root):
        if not path.is_file() or mark_of(path) != mark_now():
            yield path, command


def _pictures(root: Path) -> Iterator[tuple[Path, str, Callable[[], str]]]:
    for name in SCENES:
        yield root / "web" / "docs" / "images" / f"{name}.png", HELP_PICTURES, lambda name=name: scene_mark(SCENES[name])
    for name in CARDS:
        yield root / "workflows" / f"{name}.jpg", "python scripts/pictures/thumbnails.py", lambda name=name: card_mark(name)
    yield root / "docs" / "images" / "quick_start.png", "scripts/screenshot", lambda: graph_mark(QUICK_START)


def scene_mark(scene: Scene) -> str:
    """Of the nodes in a picture: their places and values, their titles, inputs, defaults and outputs."""
    kinds = sorted({key.split("#")[0] for column in scene.columns for key in column})
    texts, recorded = node_texts(), read_snapshot()
    titles = [texts[kind]["display_name"] for kind in kinds if kind in texts]
    sockets = [
        [[[item.get(key) for key in SHOWN_OF_AN_INPUT] for item in recorded[kind][group]] for group in ("required", "optional")]
        + [list(texts[kind]["outputs"].values())]
        for kind in kinds
        if kind in recorded and kind in texts
    ]
    graph = json.loads(QUICK_START.read_text(encoding="utf-8"))
    values = [node["widgets_values"] for node in graph["nodes"] if node["type"] in kinds]
    return mark(scene.columns, scene.links, dict(scene.values), dict(scene.sizes), scene.run, titles, sockets, values)


def graph_mark(workflow: Path) -> str:
    """Of a whole workflow on the canvas."""
    return mark(json.loads(workflow.read_text(encoding="utf-8")))
