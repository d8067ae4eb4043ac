"""The quick start in the front end's other way to draw nodes, "Nodes 2.0"."""

from __future__ import annotations

import pytest

from .workflows import QUICK_START, SMALL, nodes_of_type, read

SETTING = "Comfy.VueNodes.Enabled"
OTHER_SEED = {"WanS2VSampler": {**SMALL["WanS2VSampler"], "seed": 2}}  # else the server has the clips already, and shows no preview
LONGEST_MS = 60_000


@pytest.fixture
def nodes_2(canvas):
    canvas.open(**{SETTING: True})
    yield canvas
    canvas.open(**{SETTING: False})


def test_quick_start_runs_and_shows_its_video(nodes_2, person, client, picture):
    workflow = read(QUICK_START)
    person.open_by_drop(QUICK_START, len(workflow["nodes"]))
    nodes_2.fit_view()
    nodes_2.page.wait_for_function("count => document.querySelectorAll('[data-node-id]').length === count", arg=len(workflow["nodes"]))
    assert nodes_2.problems() == []
    person.set_widgets({**SMALL, **OTHER_SEED})
    answer = person.press_run()
    for node_id in nodes_of_type(workflow, "WanS2VSampler", "WanS2VSaveVideo"):
        nodes_2.page.locator(f"[data-node-id='{node_id}'] video").wait_for(timeout=LONGEST_MS)
    assert person.wait_for_end(client, answer["prompt_id"]) == "success"
    picture("nodes_2")
