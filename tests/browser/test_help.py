"""The help panel with its picture, and the canvas in Chinese."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from wan_s2v_pack.scripts.records.node_texts import read_locale

from .person import NODE_POSITION, WIDGET_POSITION
from .workflows import QUICK_START, nodes_of_type, read

LANGUAGE = "Comfy.Locale"
PANEL = "Comfy.RightSidePanel.IsOpen"
TIMEOUT_MS = 10_000
LABELS = """() => window.app.graph.nodes.filter(node => node.type.startsWith('WanS2V')).map(node => ({
    type: node.type,
    title: node.title,
    widgets: Object.fromEntries(node.widgets.map(widget => [widget.name, widget.label])),
    outputs: node.outputs.map(output => output.localized_name),
}))"""
HELP_PICTURE = ".node-help-content img"
LOADED = f"() => document.querySelector('{HELP_PICTURE}')?.naturalWidth > 0"


def test_the_help_panel_shows_the_picture(canvas, person, picture):
    graph = read(QUICK_START)
    canvas.load(graph, "help")
    (node,) = nodes_of_type(graph, "WanS2VAudioEncode")
    person.page.mouse.click(*person.page.evaluate(NODE_POSITION, node))
    person.click(person.page.get_by_test_id("info-button"))
    person.page.wait_for_function(LOADED, timeout=TIMEOUT_MS)
    assert person.page.locator(HELP_PICTURE).get_attribute("src").endswith("/docs/images/WanS2VAudioEncode.png")
    assert "driving_audio" in person.page.locator(".node-help-content").inner_text()
    picture("help_panel")


@pytest.fixture
def chinese_canvas(canvas) -> Iterator[Any]:
    canvas.open(**{LANGUAGE: "zh", PANEL: False})
    try:
        yield canvas
    finally:  # the next module opens the page anew
        canvas.page.request.post(f"{canvas.url}/api/settings", data={LANGUAGE: "en"})


def test_the_canvas_speaks_chinese(chinese_canvas, person, picture):
    graph, texts = read(QUICK_START), read_locale("zh")
    chinese_canvas.load(graph, "chinese")
    nodes = person.page.evaluate(LABELS)
    assert nodes
    for node in nodes:
        said = texts[node["type"]]
        assert node["title"] == said["display_name"]
        assert node["widgets"] == {name: said["inputs"][name]["name"] for name in node["widgets"] if name in said["inputs"]}
        assert node["outputs"] == [output["name"] for output in said["outputs"].values()]
    (node,) = nodes_of_type(graph, "WanS2VPrepare")
    person.page.mouse.move(*person.page.evaluate(WIDGET_POSITION, [node, "frames_per_clip"]))
    tooltip = person.page.get_by_text(texts["WanS2VPrepare"]["inputs"]["frames_per_clip"]["tooltip"])
    tooltip.wait_for(timeout=TIMEOUT_MS)
    picture("chinese")
