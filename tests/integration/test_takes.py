"""Named runs and ComfyUI's memory of outputs: a deleted run is made again, a finished one is not, and a list makes one take each."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed

from .graphs import EXACT, TWO_CLIPS, add, change, find, inputs_of, quick_start
from .rendering import open_video


def sampled(renderer, prompt) -> bool:
    """Queue a prompt; whether clips were sampled."""
    steps = []
    renderer.client.run(prompt, steps.append)
    return any(step.node == find(prompt, "WanS2VSampler") for step in steps)


def run_folder(renderer, name):
    return renderer.server.output_directory / "wan_s2v_runs" / name


def videos(renderer, prefix):
    return sorted(renderer.server.output_directory.rglob(f"{prefix}_*.mp4"))


def test_a_deleted_run_is_made_again_and_a_finished_one_is_not(renderer):
    """ComfyUI remembered the output of the sampler, and Save Video found no frames until another input changed."""
    prompt = quick_start(seed=300, run_name="deleted", filename_prefix="takes/deleted", **TWO_CLIPS, **EXACT)
    assert sampled(renderer, prompt)
    assert not sampled(renderer, prompt)
    assert len(videos(renderer, "deleted")) == 1, "nothing had changed"
    shutil.rmtree(run_folder(renderer, "deleted"))
    assert sampled(renderer, prompt)
    assert not sampled(renderer, prompt)
    first, second = (open_video(path).luma for path in videos(renderer, "deleted"))
    assert np.array_equal(first, second)


def test_a_run_that_somebody_else_has_redone_is_looked_at_again(renderer):
    """A cached handle gave the frames of the other run."""
    prompt = quick_start(seed=301, run_name="shared", filename_prefix="takes/shared", **TWO_CLIPS)
    assert sampled(renderer, prompt)
    assert sampled(renderer, quick_start(seed=302, run_name="shared", redo_from_clip=2, filename_prefix="takes/other", **TWO_CLIPS))
    with pytest.raises(PromptFailed, match=r"seed: 302 -> 301"):
        renderer.client.run(change(prompt, if_changed="stop"))


def test_redo_behind_the_last_clip_is_refused(renderer):
    prompt = quick_start(seed=303, run_name="short", filename_prefix="takes/short", **TWO_CLIPS)
    renderer.render(prompt)
    with pytest.raises(PromptFailed, match="has no clip 3 to redo: it has 2\\. Set redo_from_clip to 0"):
        renderer.render(quick_start(seed=777, run_name="short", redo_from_clip=3, filename_prefix="takes/short", **TWO_CLIPS))
    inputs_of(prompt, "WanS2VSaveVideo")["filename_prefix"] = "takes/short_again"
    renderer.render(prompt)


def test_each_picture_of_a_list_gets_a_take_of_its_own(renderer):
    """The second picture was refused, and the video of the first one was lost with it."""
    prompt = quick_start(seed=304, run_name="list", filename_prefix="takes/list", **EXACT)
    plan = inputs_of(prompt, "WanS2VPrepare")
    inverted = add(prompt, "ImageInvert", image=plan["image"])
    batch = add(prompt, "ImageBatch", image1=plan["image"], image2=[inverted, 0])
    plan["image"] = [add(prompt, "RebatchImages", images=[batch, 0], batch_size=1), 0]
    assert sampled(renderer, prompt)
    assert len(videos(renderer, "list")) == 2
    assert {path.name for path in run_folder(renderer, "list").parent.glob("list*")} == {"list", "list_2"}
    renderer.client.free()
    assert not sampled(renderer, prompt), "both are continued"
    luma = [open_video(path).luma for path in videos(renderer, "list")]
    assert np.array_equal(luma[0], luma[2])
    assert np.array_equal(luma[1], luma[3])
    assert not np.array_equal(luma[0], luma[1])
