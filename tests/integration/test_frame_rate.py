"""Other frame rates through the whole graph: the flashes stay where they were, the sound stays in sync."""

from __future__ import annotations

import numpy as np
import pytest

from .graphs import add, inputs_of
from .rendering import open_video
from .test_sync import HALF_FRAME_S, centres, click_graph, click_times, loudness

FIVE_CLIPS = 72  # frames
TARGETS = ("16", "24", "25", "30", "48", "50", "60")


def converted(renderer, multiplier: int, target: str):
    """The video of the clicks at another rate, with interpolated frames in between if the multiplier is not 1."""
    prompt = click_graph(renderer, FIVE_CLIPS, filename_prefix=f"frame_rate/{multiplier}_{target}")
    save = inputs_of(prompt, "WanS2VSaveVideo")
    decode = add(prompt, "WanS2VDecode", clips=save.pop("clips"))
    images = [decode, 0]
    if multiplier > 1:
        images = [add(prompt, "StandInInterpolation", frames=images, multiplier=multiplier), 0]
    rate = add(prompt, "WanS2VFrameRate", images=images, source_fps=16.0 * multiplier, target_fps=target)
    save.update(images=[rate, 0], audio=[decode, 1], fps=[rate, 1])
    text = add(prompt, "PreviewAny", source=[rate, 2])
    outputs = renderer.client.run(prompt)
    return open_video(renderer.video_path(outputs)), "".join(outputs[text]["text"])


def brightness(video):
    level = video.luma.astype(np.float64).mean(axis=(1, 2))
    return video.frame_times + 0.5 / float(video.fps), np.maximum(level - level.min() - 4, 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("multiplier", [1, 3])
def test_flashes_with_the_click_at_every_rate(multiplier, target, renderer):
    video, report = converted(renderer, multiplier, target)
    assert float(video.fps) == float(target)
    assert abs(video.num_frames / float(target) - FIVE_CLIPS / 16) <= 0.5 / float(target)
    assert abs(video.picture_seconds - video.sound_seconds) <= 1 / 16
    times = click_times(FIVE_CLIPS / 16)
    lead = centres(*loudness(video), times) - centres(*brightness(video), times)
    assert np.abs(lead).max() < HALF_FRAME_S, lead * 1000
    assert ("only repeat" in report) == (float(target) > 16 * multiplier)
