"""From an installed pack to a video and a second take of it, as somebody does it who has no terminal and has changed no setting."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from .appearance import NODES_2, SHOWN_AS_INSTALLED, unreadable
from .person import CLEAR
from .workflows import ALL_NODES, APP, FILES, QUICK_START, ROOT, SMALL, nodes_of_type, read

MOST_CLICKS, MOST_CLICKS_TO_ANOTHER_TAKE = 4, 2
WINDOW = {"width": 1366, "height": 768}
TUTORIAL = "Comfy.TutorialCompleted"
BLUEPRINT = "Talking video, lip sync (Wan S2V)"
PACK = "Wan S2V: talking video, lip sync"  # the name of the folder in the list, see locales
CARD = "template-workflow-{}"
PLACEHOLDER = "default-template"
SEARCH = "talking photo"
PRESENT, MISSING = "wan2.2_s2v_14B_fp8_scaled.safetensors", "wan2.2_s2v_14B_bf16_elsewhere.safetensors"
OTHER_PROMPT = "She laughs and shakes her head."
WORKFLOW, PLAIN = read(QUICK_START), read(ALL_NODES)
(TALK,) = (node["id"] for node in WORKFLOW["nodes"] if node["properties"].get("previewExposures"))
PROMPT_FIELD = f".comfy-multiline-input[placeholder=prompt]:visible, [data-node-id='{TALK}'] textarea"
SET_OUTER = """([id, name, value]) => {
    const widget = window.app.graph.getNodeById(id).widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""


@pytest.fixture
def small_window(canvas):
    """Of a laptop, with ComfyUI as it is installed."""
    before = canvas.page.viewport_size
    canvas.page.set_viewport_size(WINDOW)
    yield canvas
    canvas.page.set_viewport_size(before)
    canvas.open(**{NODES_2: False})


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


def find_template(canvas, person, words: str, name: str, *, first_time: bool) -> None:
    """With the search box, which gets the focus with the Tab key; at the first start it looks among beginners' templates only."""
    card = canvas.page.get_by_test_id(CARD.format(name))
    if first_time:
        person.click(canvas.page.get_by_text(PACK, exact=True))
    else:
        person.click(canvas.page.get_by_role("button", name="Templates").first)
        canvas.page.get_by_test_id("template-workflows-content").wait_for()
        person.type_until(card, canvas.page.get_by_placeholder("Search"), words)
    person.click(card)


def type_prompt(person, prompt_field) -> None:
    """One click into the text, and typing over all of it."""
    person.click(prompt_field)
    person.page.keyboard.press("ControlOrMeta+A")
    person.page.keyboard.type(OTHER_PROMPT)


def prompts_of(client, prompt_id: str) -> set[str]:
    return {node["inputs"].get("prompt") for node in client.history(prompt_id)["prompt"][2].values()} - {None}


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes 2.0"])
@pytest.mark.parametrize("first_time", [True, False], ids=["first start", "later"])
def test_from_the_pack_to_a_second_take(first_time, nodes_2, small_window, server, client, person, own_files, picture):
    (portrait,), (speech,) = nodes_of_type(WORKFLOW, "LoadImage"), nodes_of_type(WORKFLOW, "LoadAudio")
    canvas, stop = small_window, f"{'first' if first_time else 'later'}_{'nodes_2' if nodes_2 else 'canvas'}"
    canvas.open(
        **SHOWN_AS_INSTALLED, **{TUTORIAL: not first_time, NODES_2: nodes_2}
    )  # the first time ComfyUI shows the templates by itself
    find_template(canvas, person, SEARCH, QUICK_START.stem, first_time=first_time)
    person.wait_for_nodes(len(WORKFLOW["nodes"]))
    canvas.page.wait_for_timeout(2_000)
    picture(f"walk_{stop}_opened")
    assert unreadable(canvas.page) == []
    for node_id, name, path in zip((portrait, speech), ("image", "audio"), own_files, strict=True):
        with canvas.page.expect_response("**/upload/image"):
            person.drop(path, onto=node_id)
        assert person.value(node_id, name) == path.name
        assert (server.input_directory / path.name).read_bytes() == path.read_bytes()
    person.set_widgets(SMALL)  # no part of the walk: the real size would keep a processor busy for hours
    canvas.page.evaluate(SET_OUTER, [TALK, "run_name", f"walk_{stop}"])
    first = person.press_run()
    assert first["node_errors"] == {}
    assert person.clicks <= MOST_CLICKS
    assert person.wait_for_end(client, first["prompt_id"]) == "success"
    picture(f"walk_{stop}_done")
    assert unreadable(canvas.page) == []
    person.clicks = 0
    type_prompt(person, canvas.page.locator(PROMPT_FIELD).first)
    second = person.press_run()
    assert person.clicks <= MOST_CLICKS_TO_ANOTHER_TAKE
    assert person.wait_for_end(client, second["prompt_id"]) == "success"
    assert prompts_of(client, second["prompt_id"]) == {OTHER_PROMPT}
    runs = [path.name for path in (server.output_directory / "wan_s2v_runs").glob(f"walk_{stop}*")]
    assert len(runs) == 2, "the first take is kept"
    picture(f"walk_{stop}_second_take")


def test_from_the_pack_to_a_second_take_in_the_app(small_window, client, person, picture):
    """A form, and nothing of a graph; what is said of the time left stands below the picture."""
    canvas, page = small_window, small_window.page
    canvas.open(**SHOWN_AS_INSTALLED, **{TUTORIAL: True})
    find_template(canvas, person, "lip sync app", APP.stem, first_time=False)
    form = page.get_by_test_id("linear-widgets")
    run = page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True)
    form.get_by_text("quality", exact=True).wait_for()
    assert [name for name in ("image", "audio", "prompt", "duration") if not form.get_by_text(name, exact=True).count()] == []
    picture("walk_app_opened")
    person.set_widgets({**SMALL, "WanS2VAudioEncode": {"duration": 2.5}})
    with page.expect_response("**/prompt") as response:
        person.click(run)
    assert person.clicks <= MOST_CLICKS
    first = response.value.json()
    page.get_by_test_id("wan-s2v-progress").get_by_text("left").wait_for(timeout=60_000)
    page.locator("[data-testid=linear-center-panel] video").first.wait_for(timeout=60_000)
    assert client.history(first["prompt_id"]) is None, "the video so far is shown while the run goes on"
    picture("walk_app_running")
    assert person.wait_for_end(client, first["prompt_id"]) == "success"
    person.clicks = 0
    type_prompt(person, form.locator("textarea").first)
    with page.expect_response("**/prompt") as response:
        person.click(run)
    assert person.clicks <= MOST_CLICKS_TO_ANOTHER_TAKE
    assert person.wait_for_end(client, response.value.json()["prompt_id"]) == "success"
    assert prompts_of(client, response.value.json()["prompt_id"]) == {OTHER_PROMPT}
    page.wait_for_timeout(2_000)
    picture("walk_app_second_take")


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
    person.open_by_drop(ALL_NODES, len(PLAIN["nodes"]))
    canvas.fit_view()
    (sampler,) = nodes_of_type(PLAIN, "WanS2VSampler")
    canvas.page.wait_for_timeout(500)
    person.type_number(sampler, "seed", 7)
    assert person.value(sampler, "seed") == 7
    (queued,) = (node for node in canvas.api_format().values() if node["class_type"] == "WanS2VSampler")
    assert queued["inputs"]["seed"] == 7


def test_files_can_be_dropped_on_their_nodes(canvas, person, server, own_files):
    person.open_by_drop(ALL_NODES, len(PLAIN["nodes"]))
    canvas.fit_view()
    canvas.page.wait_for_timeout(500)
    for (node_id,), name, path in zip(
        (nodes_of_type(PLAIN, "LoadImage"), nodes_of_type(PLAIN, "LoadAudio")), ("image", "audio"), own_files, strict=True
    ):
        with canvas.page.expect_response("**/upload/image"):
            person.drop(path, onto=node_id)
        assert person.value(node_id, name) == path.name
        assert (server.input_directory / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("words", [BLUEPRINT, "lip sync"])
def test_blueprint_is_found_by_what_it_is_for(words, canvas, person, picture):
    canvas.open()
    canvas.page.evaluate(CLEAR)
    person.double_click_until(canvas.page.get_by_placeholder(re.compile("search|add", re.IGNORECASE)).first, at=(900, 600))
    canvas.page.keyboard.type(words)
    canvas.page.get_by_text(BLUEPRINT).last.wait_for()
    before = {node["id"] for node in canvas.serialized()["nodes"]}
    if words == BLUEPRINT:
        canvas.page.keyboard.press("Enter")
    else:
        canvas.page.get_by_text(BLUEPRINT).first.click()
    person.wait_for_nodes(len(before) + 1)
    canvas.page.mouse.click(900, 300)  # it hangs at the mouse until then
    (node,) = (node for node in canvas.serialized()["nodes"] if node["id"] not in before)
    queued = {part["class_type"] for key, part in canvas.api_format().items() if key.startswith(f"{node['id']}:")}
    assert {"WanS2VModelLoader", "WanS2VAudioEncode", "WanS2VPrepare", "WanS2VSampler"} <= queued
    picture("blueprint")


def test_front_end_offers_a_missing_file(canvas):
    """Last, because its list of errors stays open."""
    canvas.load(json.loads(json.dumps(PLAIN).replace(PRESENT, MISSING)), "missing")
    canvas.page.get_by_text("View details").click()
    canvas.page.get_by_text("Missing Models").first.wait_for()
    lines = [line.strip() for line in canvas.page.inner_text("body").splitlines()]
    offered = lines[lines.index("Missing Models") :]
    assert {MISSING, "diffusion_models", "Download"} <= set(offered)
