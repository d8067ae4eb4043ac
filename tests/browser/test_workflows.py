"""Every shipped workflow: dropped onto the canvas, looked at, run with the tiny set, and its video played."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from wan_s2v_pack.scripts.workflows.convert import ui_to_api

from .appearance import overlapping
from .person import Person
from .workflows import APP, DUB, FILES, FILM_SIZE, NUM_FRAMES, PORTRAIT, SAVE_NODES, SIZE, nodes_of_type, read

TYPES = "async () => Object.values((await window.app.graphToPrompt()).output).map(node => node.class_type)"
BUTTONS = ("audioUI", "upload", "video-preview")  # widgets of the front end alone, which it queues too


class Opened(NamedTuple):
    """What the canvas shows, and the file it came from."""

    name: str
    canvas: Any
    shipped: dict[str, Any]
    saved: dict[str, Any]


@pytest.fixture(scope="module", params=[name for name, path in FILES.items() if path != APP])
def opened(request, object_info, canvas):
    path = FILES[request.param]
    shipped = read(path)
    Person(canvas.page).open_by_drop(path, len(shipped["nodes"]))
    canvas.fit_view()
    canvas.page.wait_for_timeout(1_000)  # widgets and pictures load after the graph itself
    return Opened(request.param, canvas, shipped, canvas.serialized())


def test_no_node_is_missing_or_red(opened):
    assert opened.canvas.problems() == []


def test_nodes_do_not_overlap(opened):
    assert overlapping(opened.canvas.page) == []


def test_saved_file_keeps_links_and_values(opened):
    """What the front end would save is the file that is shipped, up to its own decoration."""
    assert [list(link) for link in opened.saved["links"]] == opened.shipped["links"]
    saved, shipped = ({node["id"]: node for node in graph["nodes"]} for graph in (opened.saved, opened.shipped))
    assert saved.keys() == shipped.keys()
    for key, node in saved.items():
        assert node["type"] == shipped[key]["type"]
        expected = [value for value in shipped[key]["widgets_values"] if value is not None]
        assert [value for value in node.get("widgets_values") or [] if value is not None][: len(expected)] == expected


def test_front_end_queues_what_the_converter_makes(opened, object_info):
    queued = {key: (node["class_type"], node["inputs"]) for key, node in opened.canvas.api_format().items()}
    converted = {key: (node["class_type"], node["inputs"]) for key, node in ui_to_api(opened.shipped, object_info).items()}
    for _, inputs in queued.values():
        for button in set(inputs) & set(BUTTONS):
            del inputs[button]
    assert queued == converted


def test_it_runs_and_its_videos_play(opened, person, picture, client):
    """The last one: it changes values."""
    if "CheckpointLoaderSimple" in opened.canvas.page.evaluate(TYPES):
        pytest.skip("there is no tiny model that finds a pose; tests/integration renders the rest of this workflow")
    person.set_widgets(PORTRAIT)
    answer = person.press_run()
    assert answer["node_errors"] == {}
    for node_id in nodes_of_type(opened.shipped, *SAVE_NODES):
        person.wait_for_video(node_id)
        video = person.play(node_id)
        assert video["played"] == video["duration"] == pytest.approx(NUM_FRAMES / 16, abs=1 / 16)
        if opened.name == DUB:
            assert (video["width"], video["height"]) == FILM_SIZE
        else:
            assert 2 * video["width"] == video["height"] >= 2 * SIZE
        assert video["frames"] >= NUM_FRAMES
        assert video["sound_bytes"] > 0
    assert person.wait_for_end(client, answer["prompt_id"]) == "success"
    for node_id in nodes_of_type(opened.shipped, "PreviewImage"):
        assert person.sees_picture(node_id)
    assert overlapping(opened.canvas.page) == []  # some nodes have grown: they show videos and text now
    picture(opened.name)
