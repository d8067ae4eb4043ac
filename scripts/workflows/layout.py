"""Where nodes, notes and frames stand on the canvas, and how large they are.

The front end opens a template so that three quarters of the window show all of its nodes, and hides text that would be smaller than 8
pixels: `LARGEST` is what can be read in a window of 1920x950, `tests/browser/test_readable.py` looks whether it can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .parts import Group, Node

LARGEST = (2490, 1220)
TITLE, GAP, MARGIN, GROUP_GAP = 30, 26, 14, 50  # px; the title of a node stands above its position
NOTE_PADDING, NOTE_LINE, NOTE_LETTER = 52, 18, 6.6  # px around the text, per line, per letter
COLOURS = ("#3f789e", "#557a46", "#8a6d3b", "#6a5a8c", "#8c4a4a", "#4a7f7f")
HEIGHTS = {  # of both ways in which ComfyUI 0.30 draws a node the larger one, with room for pictures and text
    "WanS2VModelLoader": 270,
    "WanS2VLoraLoader": 136,
    "WanS2VTextEncoderLoader": 110,
    "WanS2VAudioEncoderLoader": 110,
    "WanS2VVAELoader": 110,
    "WanS2VTextEncode": 218,
    "WanS2VPromptSchedule": 300,
    "WanS2VAudioEncode": 234,
    "WanS2VSpeakers": 650,
    "WanS2VPose": 230,
    "WanS2VDub": 310,
    "WanS2VPrepare": 430,
    "WanS2VDraftOrFinal": 168,
    "WanS2VAudioGuidance": 172,
    "WanS2VSamplingOptions": 136,
    "WanS2VContinuity": 144,
    "WanS2VSampler": 600,
    "WanS2VLiveSampler": 500,
    "WanS2VDecode": 128,
    "WanS2VFrameRate": 156,
    "WanS2VSaveVideo": 480,
    "WanS2VDriftReport": 420,
    "WanS2VSyncReport": 420,
    "UNETLoader": 110,
    "LoraLoaderModelOnly": 110,
    "VAELoader": 80,
    "CheckpointLoaderSimple": 110,
    "CLIPTextEncode": 130,
    "LoadImage": 326,
    "LoadAudio": 140,
    "LoadVideo": 396,
    "PreviewImage": 266,
    "PreviewAudio": 120,
    "AudioEqualizer3Band": 258,
    "GetVideoComponents": 90,
    "SDPoseKeypointExtractor": 150,
    "SDPoseDrawKeypoints": 280,
    "CreateVideo": 112,
    "SaveVideo": 480,
    "FrameInterpolationModelLoader": 80,
    "FrameInterpolate": 86,
    "UpscaleModelLoader": 80,
    "ImageUpscaleWithModel": 60,
    "ImageScaleBy": 100,
}
GROWING = (
    "WanS2VSampler",
    "WanS2VLiveSampler",
    "WanS2VSaveVideo",
    "SaveVideo",
    "LoadVideo",
)  # show videos of any shape: nothing stands below them
BLUEPRINT_HEIGHT = (114, 80, 26)  # px of sockets and rims, of a text of many lines, and of any other widget

Box = tuple[int, int, int, int]


def height_of(node: Node, info: Mapping[str, Any]) -> int:
    """Height of a node without its title; of a blueprint from its widgets, with `info` as /object_info would have it."""
    if node.height or node.type in HEIGHTS:
        return node.height or HEIGHTS[node.type]
    base, text, row = BLUEPRINT_HEIGHT
    widgets = [options for group in info["input"].values() for _, options in group.values() if options.get("widget")]
    return base + sum(text if options.get("multiline") else row for options in widgets)


def places(groups: Sequence[Group], heights: Mapping[int, int]) -> Iterator[tuple[Group, Node | None, Box]]:
    """Every node of every column, and its note as None, with left, top, width and height.

    A note stands at the foot of its column, but above a node that grows.
    """
    left = 0
    for group in groups:
        column: list[Node | None] = [*group.nodes]
        if group.note:
            column.insert(len(column) - 1 if grows(group.nodes[-1]) else len(column), None)
        top = 0
        for node in column:
            height = note_height(group) if node is None else heights[node.id]
            yield group, node, (left, top, group.width, height)
            top += height + TITLE + GAP
        left += group.width + GROUP_GAP


def grows(node: Node) -> bool:
    return node.type in GROWING or node.type not in HEIGHTS


def note_height(group: Group) -> int:
    per_line = group.width / NOTE_LETTER
    lines = sum(max(1, math.ceil(len(paragraph) / per_line)) for paragraph in unwrapped(group.note).split("\n"))
    return NOTE_PADDING + NOTE_LINE * lines


def unwrapped(text: str) -> str:
    """Markdown with one line per paragraph."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def frames(groups: Sequence[Group], bottom: int) -> Iterator[dict[str, Any]]:
    """A coloured frame with a title around every column that has one."""
    left = 0
    for index, group in enumerate(groups):
        if group.title:
            bounding = [left - MARGIN, -80, group.width + 2 * MARGIN, bottom + 80 + MARGIN]
            colour = COLOURS[index % len(COLOURS)]
            yield {"id": index + 1, "title": group.title, "bounding": bounding, "color": colour, "font_size": 24, "flags": {}}
        left += group.width + GROUP_GAP


def view(nodes: Sequence[Mapping[str, Any]], window: tuple[int, int]) -> dict[str, Any]:
    """Scale and offset at which all nodes are in a window: the front end does not fit a file that is dropped on the canvas."""
    right, bottom = (max(node["pos"][axis] + node["size"][axis] for node in nodes) for axis in (0, 1))
    scale = round(min(0.8 * window[0] / right, 0.8 * window[1] / (bottom + TITLE), 1.0), 2)
    return {"scale": scale, "offset": [round(80 / scale), round(90 / scale) + TITLE]}
