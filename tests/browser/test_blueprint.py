"""The subgraph blueprint on the canvas: what it shows, and what the front end queues for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wan_s2v_pack.scripts.workflows.convert import ui_to_api

(BLUEPRINT,) = (Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json")
INPUTS = ["image", "audio", "prompt", "size", "seed", "steps", "cfg", "run_name"]  # then the four files
SUBGRAPH_WIDGETS = "() => window.app.graph.nodes[0].widgets.map(widget => [widget.name, widget.value])"
SET_STEPS = "value => { window.app.graph.nodes[0].widgets.find(widget => widget.name === 'steps').value = value }"


@pytest.fixture(scope="module")
def blueprint(canvas):
    workflow = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    canvas.load(workflow, "blueprint")
    return workflow


def test_it_has_the_few_inputs_that_people_change(blueprint, canvas):
    (node,) = canvas.serialized()["nodes"]
    assert [entry["name"] for entry in node["inputs"]][: len(INPUTS)] == INPUTS
    assert len(node["inputs"]) == len(INPUTS) + 4
    widgets = dict(canvas.page.evaluate(SUBGRAPH_WIDGETS))
    assert (widgets["size"], widgets["seed"], widgets["steps"], widgets["cfg"]) == ("480P", 42, 40, 4.5)


@pytest.mark.parametrize("steps", [40, 7])
def test_front_end_queues_what_the_converter_makes(steps, blueprint, canvas, object_info):
    """Of the blueprint as it was shipped, and as the front end saves it with a value set on the subgraph node."""
    canvas.page.evaluate(SET_STEPS, steps)
    saved = blueprint if steps == 40 else canvas.serialized()
    queued, converted = (
        {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()}
        for prompt in (canvas.api_format(), ui_to_api(saved, object_info))
    )
    assert queued == converted
    (sampler,) = (inputs for kind, inputs in queued.values() if kind == "WanS2VSampler")
    assert sampler["steps"] == steps
