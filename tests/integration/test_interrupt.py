"""Cancel a prompt in the middle; the server must be ready for the next one."""

from __future__ import annotations

from pathlib import Path

import pytest
from wan_s2v_pack.cli.comfyui.client import PromptInterrupted

from .graphs import NUM_FRAMES, TWO_CLIPS, find, inputs_of, quick_start


def temporary_folders(renderer) -> set[Path]:
    """Folders in which runs without a name keep their clips."""
    return set((renderer.server.base_directory / "temp").glob("wan_s2v_*"))


STEPS = 30  # so many that the cancel comes before the last one


@pytest.mark.parametrize("stop_at", [1, STEPS + 1], ids=["first clip", "second clip"])
def test_cancel_while_sampling_then_run_again(stop_at, renderer):
    prompt = quick_start(seed=100 + stop_at, steps=STEPS, filename_prefix=f"cancel/{stop_at}", **TWO_CLIPS)
    sampler = find(prompt, "WanS2VSampler")
    before = renderer.output_files()
    folders_before = temporary_folders(renderer)
    stopped = renderer.cancel(prompt, lambda step: step.node == sampler and step.value >= stop_at)
    assert stopped.node_id == sampler
    assert renderer.output_files() == before
    assert temporary_folders(renderer) <= folders_before
    video = renderer.render(prompt)
    assert video.num_frames == 24


@pytest.mark.parametrize("node_type", ["WanS2VTextEncode", "WanS2VAudioEncode", "WanS2VPrepare"])
def test_cancel_before_sampling_then_run_again(node_type, renderer):
    """Encoding a text is one call of ComfyUI's: a cancel takes effect at its end at the latest."""
    prompt = quick_start(seed=105, steps=STEPS, filename_prefix=f"cancel/{node_type}")
    inputs_of(prompt, "WanS2VTextEncode")["prompt"] = f"Cancelled in {node_type}."
    inputs_of(prompt, "WanS2VAudioEncode")["start"] = len(node_type) / 100  # nothing is remembered from the other prompts
    before = renderer.output_files()
    folders_before = temporary_folders(renderer)
    stopped = renderer.cancel(prompt, at_node=find(prompt, node_type))
    assert stopped.node_type != "WanS2VSaveVideo"
    assert renderer.output_files() == before
    assert temporary_folders(renderer) <= folders_before
    assert renderer.render(prompt).num_frames == NUM_FRAMES


def test_cancelled_in_the_queue_does_not_run(renderer):
    before = renderer.output_files()
    first = renderer.client.queue(quick_start(seed=110, filename_prefix="cancel/running"))
    second = renderer.client.queue(quick_start(seed=111, filename_prefix="cancel/waiting"))
    renderer.client.interrupt(second)
    renderer.client.wait(first)
    with pytest.raises(PromptInterrupted):
        renderer.client.wait(second)
    written = {path.name for path in renderer.output_files() - before}
    assert any(name.startswith("running") for name in written)
    assert not any(name.startswith("waiting") for name in written)


def test_memory_does_not_grow_with_cancelled_prompts(renderer):
    def cancel_one(seed):
        renderer.cancel(quick_start(seed=seed, steps=STEPS), lambda _step: True)

    cancel_one(120)
    before = renderer.server.memory_bytes()
    for seed in range(121, 126):
        cancel_one(seed)
    assert renderer.server.memory_bytes() - before < 100 * 2**20
