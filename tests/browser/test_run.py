"""A run of several clips: what is seen while it goes on, and what its file gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .person import Person
from .workflows import ALL_NODES, SIZE, SMALL, nodes_of_type, read

SECONDS = 3.5  # 56 frames in 4 clips
PAINT_MS = 500  # from a decoded frame to a painted one
TEXT_OF_NODE = "id => app.graph.getNodeById(id).widgets.find(widget => widget.name === '$$node-text-preview')?.value"
LONGER = {"WanS2VAudioEncode": {"duration": SECONDS}, "WanS2VSampler": {**SMALL["WanS2VSampler"], "steps": 20}}


class Run(NamedTuple):
    """Facts of a run that has ended.

    Attributes:
        early, late: the sampler's video while the run went on, and after it was played at the end.
        still_running: the prompt had not ended at `early`.
        graph: as the canvas held it when Run was pressed.
        computation: what the loader of the model shows below its inputs.
    """

    early: dict[str, float]
    late: dict[str, float]
    still_running: bool
    graph: dict[str, Any]
    computation: str
    video: Path


@pytest.fixture(scope="module")
def run(canvas, client, server, picture):
    person, workflow = Person(canvas.page), read(ALL_NODES)
    person.open_by_drop(ALL_NODES, len(workflow["nodes"]))
    canvas.fit_view()
    person.set_widgets({**SMALL, **LONGER})
    graph = canvas.serialized()
    prompt_id = person.press_run()["prompt_id"]
    (sampler,), (save,) = nodes_of_type(workflow, "WanS2VSampler"), nodes_of_type(workflow, "WanS2VSaveVideo")
    early = person.wait_for_video(sampler)
    still_running = client.history(prompt_id) is None
    canvas.page.wait_for_timeout(PAINT_MS)
    picture("live_preview")
    assert person.wait_for_end(client, prompt_id) == "success"
    (loader,) = nodes_of_type(workflow, "WanS2VModelLoader")
    computation = canvas.page.evaluate(TEXT_OF_NODE, loader)
    person.wait_for_video(save)
    (file,) = client.history(prompt_id)["outputs"][str(save)]["images"]
    path = server.output_directory / file["subfolder"] / file["filename"]
    return Run(early, person.play(sampler), still_running, graph, computation, path)


def test_finished_clips_are_seen_while_the_run_goes_on(run):
    assert run.still_running
    assert 0 < run.early["duration"] < SECONDS
    assert run.early["width"] == run.early["height"] == SIZE
    assert run.late["played"] == run.late["duration"] == pytest.approx(SECONDS, abs=1 / 16)
    assert run.late["sound_bytes"] > 0


def test_loader_shows_with_what_the_model_is_computed(run):
    assert run.computation.startswith("computes exactly: linear layers in float32; attention ")


def test_dropped_video_gives_the_graph_back(run, person, canvas):
    person.open_by_drop(run.video, len(run.graph["nodes"]))
    assert canvas.problems() == []
    restored = canvas.serialized()
    assert restored["links"] == run.graph["links"]
    for key in ("id", "type", "pos", "widgets_values"):
        assert [node.get(key) for node in restored["nodes"]] == [node.get(key) for node in run.graph["nodes"]]


def test_cancel_button_ends_the_run(canvas, client, person):
    workflow = read(ALL_NODES)
    person.open_by_drop(ALL_NODES, len(workflow["nodes"]))
    person.set_widgets({**SMALL, **LONGER, "WanS2VSampler": {**LONGER["WanS2VSampler"], "seed": 1}})
    prompt_id = person.press_run()["prompt_id"]
    (sampler,) = nodes_of_type(workflow, "WanS2VSampler")
    person.wait_for_video(sampler)
    person.press_cancel()
    assert person.wait_for_end(client, prompt_id) == "error"
    assert client.history(prompt_id)["status"]["messages"][-1][0] == "execution_interrupted"
