"""What can be seen of the nodes on the canvas: whether their words are drawn, and whether they cover each other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

LEAST_CONTRAST = 60  # of 255, between the words of a title and its ground
SHOWN_AS_INSTALLED = {"Comfy.Minimap.Visible": True, "Comfy.Graph.CanvasInfo": True}  # hidden on our pictures
NODES_2 = "Comfy.VueNodes.Enabled"
PALETTE = "Comfy.ColorPalette"

SCALE = "() => ({ scale: window.app.canvas.ds.scale, hidden: window.app.canvas.low_quality })"
TITLES = """() => {
    const { canvas, graph } = window.app, frame = canvas.canvas.getBoundingClientRect(), scale = canvas.ds.scale;
    return graph.nodes.map(node => {
        const [x, y] = canvas.ds.convertOffsetToCanvas([node.pos[0] + 40, node.pos[1] - LiteGraph.NODE_TITLE_HEIGHT + 4]);
        const width = Math.min(node.size[0] - 80, 7 * node.title.length) * scale;
        return [`${node.id} ${node.title}`, frame.left + x, frame.top + y, width, (LiteGraph.NODE_TITLE_HEIGHT - 8) * scale];
    });
}"""
BOXES = """() => window.app.graph.nodes.map(node => {
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect(), title = LiteGraph.NODE_TITLE_HEIGHT;
    const height = drawn ? drawn.height / window.app.canvas.ds.scale : node.size[1] + title;
    return [`${node.id} ${node.title}`, node.pos[0], node.pos[1] - title, node.size[0], height];
})"""


def unreadable(page: Any) -> list[str]:
    """The nodes without visible words in their titles, and why all of them would be without."""
    view = page.evaluate(SCALE)
    if view["hidden"]:
        return [f"the front end hides all text at {view['scale']:.3f} of full size"]
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"), np.int16)
    return [name for name, *box in page.evaluate(TITLES) if _contrast(picture, *box) < LEAST_CONTRAST]


def _contrast(picture: np.ndarray, x: float, y: float, width: float, height: float) -> int:
    part = picture[max(0, round(y)) : max(0, round(y + height)), max(0, round(x)) : max(0, round(x + width))]
    return int(part.max() - part.min()) if part.size else 0


def overlapping(page: Any) -> list[tuple[str, str]]:
    """Pairs of nodes of which one covers a part of the other, as they are drawn."""
    return list(_covered(page.evaluate(BOXES)))


def _covered(boxes: list[tuple[str, float, float, float, float]]) -> Iterator[tuple[str, str]]:
    for (one, x, y, width, height), (other, left, top, wide, high) in combinations(boxes, 2):
        if x < left + wide and left < x + width and y < top + high and top < y + height:
            yield one, other
