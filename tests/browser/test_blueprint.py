"""The subgraph blueprint on the canvas: what it shows, and what the front end queues for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wan_s2v_pack.scripts.workflows.convert import ui_to_api

BLUEPRINT = Path(__file__).resolve().parents[2] / "subgraphs" / "Talking video, lip sync (Wan S2V).json"
INPUTS = ["image", "audio", "prompt", "quality", "duration", "seed", "run_name"]  # then the five files
SUBGRAPH_WIDGETS = "() => window.app.graph.nodes[0].widgets.map(widget => [widget.name, widget.value])"
SET_SEED = "value => { window.app.graph.nodes[0].widgets.find(widget => widget.name === 'seed').value = value }"


@pytest.fixture(scope="module")
def blueprint(canvas):
    workflow = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
    canvas.load(workflow, "blueprint")
    return workflow


def test_it_has_the_few_inputs_that_people_change(blueprint, canvas):
    (node,) = canvas.serialized()["nodes"]
    assert [entry["name"] for entry in node["inputs"]][: len(INPUTS)] == INPUTS
    assert len(node["inputs"]) == len(INPUTS) + 5
    widgets = dict(canvas.page.evaluate(SUBGRAPH_WIDGETS))
    assert (widgets["quality"], widgets["seed"]) == ("draft", 42)


@pytest.mark.parametrize("seed", [42, 7])
def test_front_end_queues_what_the_converter_makes(seed, blueprint, canvas, object_info):
    """Of the blueprint as it was shipped, and as the front end saves it with a value set on the subgraph node."""
    canvas.page.evaluate(SET_SEED, seed)
    saved = blueprint if seed == 42 else canvas.serialized()
    queued, converted = (
        {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()}
        for prompt in (canvas.api_format(), ui_to_api(saved, object_info))
    )
    assert queued == converted
    (sampler,) = (inputs for kind, inputs in queued.values() if kind == "WanS2VSampler")
    assert sampler["seed"] == seed
