"""Sampling Options on a real server: other frames, the same length; and those of the reference where nothing is changed."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptRefused

from .graphs import EXACT, TWO_CLIPS, add_options, find, quick_start

SETTINGS = {"steps": 4, **TWO_CLIPS, **EXACT}
FIRST_CLIP = 13  # frames


@pytest.fixture
def plain(renderer):
    return renderer.render(quick_start(**SETTINGS))


def test_options_as_they_come_are_the_reference(renderer, plain):
    assert np.array_equal(renderer.render(add_options(quick_start(**SETTINGS))).luma, plain.luma)


@pytest.mark.parametrize("changes", [{"cfg_end_percent": 0.5}, {"cfg_start_percent": 0.5}])
def test_guidance_on_half_of_the_steps(changes, renderer, plain):
    steps, prompt = [], add_options(quick_start(**SETTINGS), **changes)
    before = len(renderer.server.log_text())
    video = renderer.render(prompt, steps.append)
    assert video.num_frames == plain.num_frames
    assert not np.array_equal(video.luma, plain.luma)
    assert max(step.maximum for step in steps if step.node == find(prompt, "WanS2VSampler")) == 2 * 4
    assert "4 steps of 1.5 model calls" in renderer.server.log_text()[before:]


def test_shorter_warm_up_changes_later_clips_only(renderer, plain):
    video = renderer.render(add_options(quick_start(**SETTINGS), vae_warmup=2))
    assert video.num_frames == plain.num_frames
    assert np.array_equal(video.luma[:FIRST_CLIP], plain.luma[:FIRST_CLIP])
    assert not np.array_equal(video.luma[FIRST_CLIP:], plain.luma[FIRST_CLIP:])


def test_guidance_that_ends_before_it_begins_is_refused(client):
    with pytest.raises(PromptRefused, match="Guidance must begin before it ends"):
        client.run(add_options(quick_start(), cfg_start_percent=0.6, cfg_end_percent=0.4))
