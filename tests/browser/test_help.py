"""The help panel with its pages, and the canvas in Chinese."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from wan_s2v_pack.scripts.records.help_pages import WORDS
from wan_s2v_pack.scripts.records.node_texts import CONTROL, read_locale

from .person import WIDGET_POSITION, Person
from .workflows import ALL_NODES, nodes_of_type, read

LANGUAGE = "Comfy.Locale"
PANEL = "Comfy.RightSidePanel.IsOpen"
TIMEOUT_MS = 10_000
CLICKS, CLICK_MS = 10, 500
LABELS = """() => window.app.graph.nodes.filter(node => node.type.startsWith('WanS2V')).map(node => ({
    type: node.type,
    title: node.title,
    widgets: Object.fromEntries(node.widgets.map(widget => [widget.name, widget.label])),
    outputs: node.outputs.map(output => output.localized_name),
}))"""
HELP = ".node-help-content"
LOADED = f"() => document.querySelector('{HELP} img')?.naturalWidth > 0"
NODES_2 = "Comfy.VueNodes.Enabled"
SMALL_SCREEN, USUAL_SCREEN = {"width": 1366, "height": 768}, {"width": 1920, "height": 900}
ALONE = """async type => {
    const { canvas, graph } = window.app, node = LiteGraph.createNode(type);
    graph.clear();
    graph.add(node);
    node.pos = [300, 300];
    Object.assign(canvas.ds, { scale: 1, offset: [0, 0] });
    canvas.draw(true, true);
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));  // until then a click meets nothing
    const frame = canvas.canvas.getBoundingClientRect();
    return [frame.left + 360, frame.top + 285];
}"""
TOO_WIDE = """content => {
    const right = content.getBoundingClientRect().right + 1, panel = content.closest('.overflow-y-auto, .overflow-auto') ?? content;
    const cut = [...content.querySelectorAll('*')].filter(each => each.getBoundingClientRect().right > right);
    return [panel, ...cut].filter(each => cut.includes(each) || each.scrollWidth > each.clientWidth + 1)
        .map(each => `${each.tagName}: ${each.textContent.trim().slice(0, 60)}`);
}"""


@pytest.mark.parametrize(("language", "nodes_2"), [("en", False), ("en", True), ("zh", False)])
def test_every_help_page_fits_the_panel(language, nodes_2, canvas, person, picture):
    """At its default width on a small screen: no part is wider, both columns of a table are seen, the picture is there."""
    page, titles = canvas.page, {node: texts["display_name"] for node, texts in read_locale(language).items()}
    page.set_viewport_size(SMALL_SCREEN)
    canvas.open(**{LANGUAGE: language, NODES_2: nodes_2, PANEL: False})
    try:
        for node, title in titles.items():
            open_help(person, node, nodes_2)
            page.locator(f"{HELP} h1", has_text=title).wait_for(timeout=TIMEOUT_MS)
            page.wait_for_function(LOADED, timeout=TIMEOUT_MS)
            assert page.locator(HELP).evaluate(TOO_WIDE) == [], f"{node}, {language}"
            assert page.locator(f"{HELP} h2").first.inner_text() == WORDS[language].inputs, f"{node}: not its page in {language}"
        picture(f"help_{language}")
    finally:
        page.set_viewport_size(USUAL_SCREEN)
        page.request.post(f"{canvas.url}/api/settings", data={LANGUAGE: "en", NODES_2: False})


def open_help(person: Person, node: str, nodes_2: bool) -> None:
    """Put this node alone on the canvas, choose it, and open its help where it is not open yet."""
    page = person.page
    place, button = page.evaluate(ALONE, node), page.get_by_test_id("info-button")
    for _ in range(CLICKS):  # a busy browser loses some
        if nodes_2:
            page.locator("[data-node-id]").first.click(position={"x": 80, "y": 12})
        else:
            page.mouse.click(*place)
        page.wait_for_timeout(CLICK_MS)
        if page.locator(HELP).count():
            return
        if button.is_visible():
            break
    person.click(button)


@pytest.fixture
def chinese_canvas(canvas) -> Iterator[Any]:
    canvas.open(**{LANGUAGE: "zh", PANEL: False})
    try:
        yield canvas
    finally:  # the next module opens the page anew
        canvas.page.request.post(f"{canvas.url}/api/settings", data={LANGUAGE: "en"})


def test_the_canvas_speaks_chinese(chinese_canvas, person, picture):
    graph, texts = read(ALL_NODES), read_locale("zh")
    chinese_canvas.load(graph, "chinese")
    nodes, own_titles = person.page.evaluate(LABELS), {node.get("title") for node in graph["nodes"]}
    assert nodes
    for node in nodes:
        said = texts[node["type"]]
        assert node["title"] == said["display_name"] or node["title"] in own_titles
        widgets = {CONTROL if name == "fixed" else name: label for name, label in node["widgets"].items()}  # named after its default
        assert widgets == {name: said["inputs"][name]["name"] for name in widgets if name in said["inputs"]}
        assert node["outputs"] == [output["name"] for output in said["outputs"].values()]
    (node,) = nodes_of_type(graph, "WanS2VPrepare")
    person.page.mouse.move(*person.page.evaluate(WIDGET_POSITION, [node, "frames_per_clip"]))
    tooltip = person.page.get_by_text(texts["WanS2VPrepare"]["inputs"]["frames_per_clip"]["tooltip"])
    tooltip.wait_for(timeout=TIMEOUT_MS)
    picture("chinese")
