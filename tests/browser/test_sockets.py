"""What the canvas makes of the pack's own sockets and of a size that brings inputs of its own, with both renderers."""

from __future__ import annotations

import pytest

from .workflows import ALL_NODES, nodes_of_type, read

NODES_2 = "Comfy.VueNodes.Enabled"
OURS = ("WAN_S2V_AUDIO", "WAN_S2V_PLAN", "WAN_S2V_CLIPS")
COLOURS = """types => types.map(type => ({
    socket: window.app.canvas.default_connection_color_byType[type],
    link: LGraphCanvas.link_type_colors[type],
    variable: getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`).trim(),
}))"""
WIDGETS = "id => window.app.graph.getNodeById(id).widgets.map(widget => widget.name)"
CHOOSE = "([id, value]) => { window.app.graph.getNodeById(id).widgets.find(widget => widget.name === 'size').value = value; }"
QUEUED = "async id => (await window.app.graphToPrompt()).output[id].inputs"


@pytest.fixture(params=[False, True], ids=["canvas", "nodes 2.0"])
def renderer(request, canvas):
    canvas.open(**{NODES_2: request.param})
    yield canvas
    canvas.open(**{NODES_2: False})


def test_our_sockets_have_colours_of_their_own_and_keep_them(renderer):
    """They were grey like those of AUDIO, and a change of the palette made them so again."""
    for palette in ("light", "dark"):
        renderer.page.evaluate("id => window.app.extensionManager.setting.set('Comfy.ColorPalette', id)", palette)
        renderer.page.wait_for_timeout(500)
        colours = renderer.page.evaluate(COLOURS, list(OURS))
        for colour in colours:
            assert colour["socket"] == colour["link"] == colour["variable"]
        assert len({colour["socket"] for colour in colours}) == len(OURS)
        assert all(colour["socket"].startswith("#") for colour in colours)


def test_width_and_height_come_with_size_custom_only(renderer):
    graph = read(ALL_NODES)
    renderer.load(graph, "sizes")
    (prepare,) = nodes_of_type(graph, "WanS2VPrepare")
    page = renderer.page
    assert not [name for name in page.evaluate(WIDGETS, prepare) if name.startswith("size.")]
    page.evaluate(CHOOSE, [prepare, "custom"])
    assert [name for name in page.evaluate(WIDGETS, prepare) if name.startswith("size")] == ["size", "size.width", "size.height"]
    queued = page.evaluate(QUEUED, str(prepare))
    assert {name: queued[name] for name in ("size", "size.width", "size.height")} == {
        "size": "custom",
        "size.width": 832,
        "size.height": 480,
    }
    page.evaluate(CHOOSE, [prepare, "720P"])
    queued = page.evaluate(QUEUED, str(prepare))
    assert (queued["size"], "size.width" in queued) == ("720P", False)
