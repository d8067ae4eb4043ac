"""The shipped workflows, and values that let the tiny set make a video in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wan_s2v_pack.tests.integration.graphs import DUB, FILM_SIZE, NUM_FRAMES, SIZE, SMALL

ROOT = Path(__file__).resolve().parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
QUICK_START = FILES["Talking photo, quick start (Wan S2V)"]
APP = FILES["Lip sync app, no nodes (Wan S2V).app"]
ALL_NODES = FILES["Talking photo, all nodes (Wan S2V)"]
SAVE_NODES = ("WanS2VSaveVideo", "SaveVideo")
PORTRAIT = {**SMALL, "WanS2VPrepare": {**SMALL["WanS2VPrepare"], "size.height": 2 * SIZE}}  # a video that is taller than its node is wide

__all__ = [
    "ALL_NODES",
    "APP",
    "DUB",
    "FILES",
    "FILM_SIZE",
    "NUM_FRAMES",
    "PORTRAIT",
    "QUICK_START",
    "SAVE_NODES",
    "SIZE",
    "SMALL",
    "nodes_of_type",
    "read",
]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def nodes_of_type(workflow: dict[str, Any], *types: str) -> list[int]:
    """Ids of the nodes of some types."""
    return [node["id"] for node in workflow["nodes"] if node["type"] in types]
