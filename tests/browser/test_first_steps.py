"""From an installed pack to a queued quick start, as somebody does it who has no terminal."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from .person import CLEAR
from .workflows import FILES, QUICK_START, ROOT, SMALL, nodes_of_type, read

MOST_CLICKS = 5
TUTORIAL = "Comfy.TutorialCompleted"
BLUEPRINT = "Talking video (Wan S2V)"
PACK = "wan_s2v"  # the folder's name
CARD = "template-workflow-{}"
PLACEHOLDER = "default-template"
WORKFLOW = read(QUICK_START)


@pytest.fixture
def own_files(server, tmp_path):
    """A portrait and a speech of one's own; the samples that the workflow names are not there."""
    kept = [server.input_directory / path.name for path in (ROOT / "samples").iterdir()]
    for path in kept:
        path.rename(tmp_path / path.name)
    shutil.copy(tmp_path / "sample_portrait.png", tmp_path / "my portrait.png")
    shutil.copy(tmp_path / "sample_speech.wav", tmp_path / "my speech.wav")
    yield tmp_path / "my portrait.png", tmp_path / "my speech.wav"
    for path in kept:
        (tmp_path / path.name).rename(path)


def find_template(canvas, person, name: str, *, first_time: bool) -> None:
    """Find a template with the mouse, or with the search box."""
    if first_time:
        person.click(canvas.page.get_by_text(PACK, exact=True))
    else:
        person.click(canvas.page.get_by_text("Templates", exact=True).first)
        canvas.page.get_by_test_id("template-workflows-content").wait_for()
        canvas.page.get_by_placeholder("Search").focus()  # the Tab key does it
        canvas.page.keyboard.type(name.replace("_", " "))
    person.click(canvas.page.get_by_test_id(CARD.format(name)))


@pytest.mark.parametrize("first_time", [True, False], ids=["first start", "later"])
def test_quick_start_is_queued_after_five_clicks(first_time, canvas, server, client, person, own_files, picture):
    (portrait,), (speech,) = nodes_of_type(WORKFLOW, "LoadImage"), nodes_of_type(WORKFLOW, "LoadAudio")
    canvas.open(**{TUTORIAL: not first_time})  # the first time ComfyUI shows the templates by itself
    find_template(canvas, person, QUICK_START.stem, first_time=first_time)
    person.wait_for_nodes(len(WORKFLOW["nodes"]))
    for node_id, path in zip((portrait, speech), own_files, strict=True):
        person.choose_file(node_id, path)
    picture(f"walk_{'first_start' if first_time else 'later'}")
    person.set_widgets(SMALL)  # no part of the walk: the real size would keep a processor busy for hours
    answer = person.press_run()
    assert answer["node_errors"] == {}
    assert person.clicks <= MOST_CLICKS
    for node_id, name, path in zip((portrait, speech), ("image", "audio"), own_files, strict=True):
        assert person.value(node_id, name) == path.name
        assert (server.input_directory / path.name).read_bytes() == path.read_bytes()
    assert person.wait_for_end(client, answer["prompt_id"]) == "success"


def test_templates_have_pictures_of_their_own(canvas, person, picture):
    canvas.open(**{TUTORIAL: False})
    person.click(canvas.page.get_by_text(PACK, exact=True))
    for name in FILES:
        canvas.page.get_by_test_id(CARD.format(name)).scroll_into_view_if_needed()
        shown = canvas.page.get_by_test_id(CARD.format(name)).locator("img").first
        assert PLACEHOLDER not in shown.get_attribute("src")
        canvas.page.wait_for_function("image => image.naturalWidth > 0", arg=shown.element_handle())
    picture("templates")
    canvas.page.keyboard.press("Escape")


def test_numbers_can_be_typed(canvas, person):
    person.open_by_drop(QUICK_START, len(WORKFLOW["nodes"]))
    canvas.fit_view()
    (sampler,) = nodes_of_type(WORKFLOW, "WanS2VSampler")
    canvas.page.wait_for_timeout(500)
    person.type_number(sampler, "steps", 7)
    assert person.value(sampler, "steps") == 7
    (queued,) = (node for node in canvas.api_format().values() if node["class_type"] == "WanS2VSampler")
    assert queued["inputs"]["steps"] == 7


def test_files_can_be_dropped_on_their_nodes(canvas, person, server, own_files):
    person.open_by_drop(QUICK_START, len(WORKFLOW["nodes"]))
    canvas.fit_view()
    canvas.page.wait_for_timeout(500)
    for (node_id,), name, path in zip(
        (nodes_of_type(WORKFLOW, "LoadImage"), nodes_of_type(WORKFLOW, "LoadAudio")), ("image", "audio"), own_files, strict=True
    ):
        with canvas.page.expect_response("**/upload/image"):
            person.drop(path, onto=node_id)
        assert person.value(node_id, name) == path.name
        assert (server.input_directory / path.name).read_bytes() == path.read_bytes()


def test_blueprint_is_found_by_its_name(canvas, person, picture):
    canvas.open()
    canvas.page.evaluate(CLEAR)
    person.double_click_until(canvas.page.get_by_placeholder(re.compile("search|add", re.IGNORECASE)).first, at=(900, 600))
    canvas.page.keyboard.type(BLUEPRINT)
    canvas.page.get_by_text(BLUEPRINT).last.wait_for()
    before = {node["id"] for node in canvas.serialized()["nodes"]}
    canvas.page.keyboard.press("Enter")
    person.wait_for_nodes(len(before) + 1)
    canvas.page.mouse.click(900, 300)  # it hangs at the mouse until then
    (node,) = (node for node in canvas.serialized()["nodes"] if node["id"] not in before)
    queued = {part["class_type"] for key, part in canvas.api_format().items() if key.startswith(f"{node['id']}:")}
    assert {"WanS2VModelLoader", "WanS2VAudioEncode", "WanS2VPrepare", "WanS2VSampler"} <= queued
    picture("blueprint")


def test_front_end_offers_a_missing_file(canvas):
    """Last, because its list of errors stays open. The server has the bf16 file only."""
    name = "wan2.2_s2v_14B_fp8_scaled.safetensors"
    text = json.dumps(WORKFLOW)
    canvas.load(json.loads(text.replace("wan2.2_s2v_14B_bf16.safetensors", name)), "missing")
    canvas.page.get_by_text("View details").click()
    canvas.page.get_by_text("Missing Models").first.wait_for()
    lines = [line.strip() for line in canvas.page.inner_text("body").splitlines()]
    offered = lines[lines.index("Missing Models") :]
    assert {name, "diffusion_models", "Download"} <= set(offered)
