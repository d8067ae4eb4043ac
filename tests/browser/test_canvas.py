"""The shipped workflows on ComfyUI's canvas, in a headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wan_s2v_pack.cli.client import ComfyClient
from wan_s2v_pack.cli.convert import ui_to_api

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))}

pytestmark = [pytest.mark.browser, pytest.mark.comfy]


@pytest.fixture(scope="module")
def object_info(server):
    return ComfyClient(server.url).object_info()


@pytest.fixture(scope="module")
def canvas(server, browser, object_info):
    """The front end; made after `object_info`, because playwright's event loop stays in the main thread."""
    from wan_s2v_pack.cli.canvas import open_canvas

    with open_canvas(server.url, browser=browser) as opened:
        yield opened


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_node_is_missing_or_red(name, canvas):
    canvas.load(WORKFLOWS[name], name)
    assert canvas.problems() == []
    assert len(canvas.serialized()["nodes"]) == len(WORKFLOWS[name]["nodes"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nodes_do_not_overlap(name, canvas):
    canvas.load(WORKFLOWS[name], name)
    title = 30
    boxes = {
        node["id"]: (node["pos"][0], node["pos"][1] - title, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1])
        for node in canvas.serialized()["nodes"]
    }
    overlapping = [
        (a, b)
        for a, (left, top, right, bottom) in boxes.items()
        for b, (other_left, other_top, other_right, other_bottom) in boxes.items()
        if a < b and left < other_right and other_left < right and top < other_bottom and other_top < bottom
    ]
    assert overlapping == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_saved_file_keeps_links_and_values(name, canvas):
    """What the front end would save is the file that is shipped, up to its own decoration."""
    canvas.load(WORKFLOWS[name], name)
    saved = canvas.serialized()
    assert [list(link) for link in saved["links"]] == WORKFLOWS[name]["links"]
    for node, shipped in zip(
        sorted(saved["nodes"], key=lambda node: node["id"]), sorted(WORKFLOWS[name]["nodes"], key=lambda node: node["id"]), strict=True
    ):
        assert node["type"] == shipped["type"]
        kept = [value for value in node.get("widgets_values") or [] if value is not None]
        assert kept[: len(shipped["widgets_values"])] == [value for value in shipped["widgets_values"] if value is not None]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_front_end_queues_what_the_converter_makes(name, canvas, object_info):
    canvas.load(WORKFLOWS[name], name)
    queued = {key: (node["class_type"], node["inputs"]) for key, node in canvas.api_format().items()}
    converted = {key: (node["class_type"], node["inputs"]) for key, node in ui_to_api(WORKFLOWS[name], object_info).items()}
    for _, inputs in queued.values():
        for extra in set(inputs) & {"audioUI", "upload"}:
            del inputs[extra]
    assert queued == converted


def test_plan_preview_shows_up_on_its_node(canvas):
    workflow = WORKFLOWS["wan_s2v_quick_start"]
    canvas.load(workflow, "preview")
    (node,) = (node for node in workflow["nodes"] if node["type"] == "PreviewImage")
    canvas.run_until_picture(node["id"])


def test_front_end_offers_a_missing_file(canvas):
    """Last, because its list of errors stays open. The server has the bf16 file only."""
    name = "wan2.2_s2v_14B_fp8_scaled.safetensors"
    text = json.dumps(WORKFLOWS["wan_s2v_quick_start"])
    canvas.load(json.loads(text.replace("wan2.2_s2v_14B_bf16.safetensors", name)), "missing")
    canvas.page.get_by_text("View details").click()
    canvas.page.get_by_text("Missing Models").first.wait_for()
    lines = [line.strip() for line in canvas.page.inner_text("body").splitlines()]
    offered = lines[lines.index("Missing Models") :]
    assert {name, "diffusion_models", "Download"} <= set(offered)
