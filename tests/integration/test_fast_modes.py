"""Fast modes of Sample Video on a real server: other frames, the same length; and prompts from before there were any."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptRefused

from .graphs import EXACT, TWO_CLIPS, find, inputs_of, quick_start

FAST = ("cfg_start_percent", "cfg_end_percent", "vae_warmup")
SETTINGS = {"steps": 4, **TWO_CLIPS, **EXACT}
FIRST_CLIP = 13  # frames


@pytest.fixture
def plain(renderer):
    return renderer.render(quick_start(**SETTINGS))


def test_prompt_without_the_fast_modes_is_the_reference(renderer, plain):
    prompt = quick_start(**SETTINGS)
    for name in FAST:
        del inputs_of(prompt, "WanS2VSampler")[name]
    assert np.array_equal(renderer.render(prompt).luma, plain.luma)


@pytest.mark.parametrize("changes", [{"cfg_end_percent": 0.5}, {"cfg_start_percent": 0.5}])
def test_guidance_on_half_of_the_steps(changes, renderer, plain):
    steps, prompt = [], quick_start(**SETTINGS, **changes)
    before = len(renderer.server.log_text())
    video = renderer.render(prompt, steps.append)
    assert video.num_frames == plain.num_frames
    assert not np.array_equal(video.luma, plain.luma)
    assert max(step.maximum for step in steps if step.node == find(prompt, "WanS2VSampler")) == 2 * 4
    assert "4 steps of 1.5 model calls" in renderer.server.log_text()[before:]


def test_shorter_warm_up_changes_later_clips_only(renderer, plain):
    video = renderer.render(quick_start(vae_warmup=2, **SETTINGS))
    assert video.num_frames == plain.num_frames
    assert np.array_equal(video.luma[:FIRST_CLIP], plain.luma[:FIRST_CLIP])
    assert not np.array_equal(video.luma[FIRST_CLIP:], plain.luma[FIRST_CLIP:])


def test_guidance_that_ends_before_it_begins_is_refused(client):
    with pytest.raises(PromptRefused, match="Guidance must begin before it ends"):
        client.run(quick_start(cfg_start_percent=0.6, cfg_end_percent=0.4))
