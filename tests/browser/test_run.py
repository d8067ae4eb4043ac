"""A run of several clips: what is seen while it goes on, and what its file gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .workflows import QUICK_START, SIZE, SMALL, nodes_of_type, read

SECONDS = 4.5  # 72 frames in 5 clips
LONGER = {"WanS2VAudioEncode": {"duration": SECONDS}}


class Run(NamedTuple):
    """Facts of a run that has ended.

    Attributes:
        early: what playing the sampler's video told while the run went on.
        still_running: the prompt had not ended after that.
        graph: as the canvas held it when Run was pressed.
    """

    early: dict[str, float]
    still_running: bool
    graph: dict[str, Any]
    video: Path


@pytest.fixture(scope="module")
def run(canvas, client, server, picture):
    from .person import Person

    person, workflow = Person(canvas.page), read(QUICK_START)
    person.open_by_drop(QUICK_START, len(workflow["nodes"]))
    canvas.fit_view()
    person.set_widgets({**SMALL, **LONGER})
    graph = canvas.serialized()
    prompt_id = person.press_run()["prompt_id"]
    (sampler,), (save,) = nodes_of_type(workflow, "WanS2VSampler"), nodes_of_type(workflow, "WanS2VSaveVideo")
    person.wait_for_video(sampler)
    picture("live_preview")
    early = person.play(sampler)
    still_running = client.history(prompt_id) is None
    assert person.wait_for_end(client, prompt_id) == "success"
    person.wait_for_video(save)
    (file,) = client.history(prompt_id)["outputs"][str(save)]["images"]
    return Run(early, still_running, graph, server.output_directory / file["subfolder"] / file["filename"])


def test_finished_clips_play_while_the_run_goes_on(run):
    assert run.still_running
    assert 0 < run.early["duration"] < SECONDS
    assert run.early["played"] == run.early["duration"]
    assert run.early["width"] == run.early["height"] == SIZE
    assert run.early["sound_bytes"] > 0


def test_dropped_video_gives_the_graph_back(run, person, canvas):
    person.open_by_drop(run.video, len(run.graph["nodes"]))
    assert canvas.problems() == []
    restored = canvas.serialized()
    assert restored["links"] == run.graph["links"]
    for key in ("id", "type", "pos", "widgets_values"):
        assert [node.get(key) for node in restored["nodes"]] == [node.get(key) for node in run.graph["nodes"]]
