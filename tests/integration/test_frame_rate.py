"""Other frame rates through the whole graph: the flashes stay where they were, the sound stays in sync."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import PromptFailed

from .graphs import add, inputs_of
from .rendering import open_video
from .test_sync import HALF_FRAME_S, centres, click_graph, click_times, loudness

FIVE_CLIPS = 72  # frames
TARGETS = ("16", "24", "25", "30", "48", "50", "60")


def converted(renderer, multiplier: int, target: str, source_fps: float | None = None):
    """The video of the clicks at another rate, with interpolated frames in between if the multiplier is not 1."""
    prompt = click_graph(renderer, FIVE_CLIPS, filename_prefix=f"frame_rate/{multiplier}_{target}")
    save = inputs_of(prompt, "WanS2VSaveVideo")
    decode = add(prompt, "WanS2VDecode", clips=save.pop("clips"))
    images = [decode, 0]
    if multiplier > 1:
        images = [add(prompt, "StandInInterpolation", frames=images, multiplier=multiplier), 0]
    given = {"source_fps": 16.0 * multiplier} if source_fps is None else {"source_fps": source_fps, "audio": [decode, 1]}
    rate = add(prompt, "WanS2VFrameRate", images=images, target_fps=target, **given)
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


@pytest.mark.parametrize("multiplier", [1, 3], ids=["interpolation bypassed", "interpolated"])
def test_the_sound_says_how_fast_the_frames_come(multiplier, renderer):
    """A bypassed interpolation gave a third of the video, without a word."""
    video, report = converted(renderer, multiplier, "24", source_fps=0.0)
    assert abs(video.num_frames / 24 - FIVE_CLIPS / 16) <= 0.5 / 24
    assert f"at {16 * multiplier} fps became" in report


def save_images(renderer, seconds, **changes):
    """76 frames with a sound, as they come where Change Frame Rate is bypassed."""
    inputs = {"filename_prefix": "frame_rate/apart", "format": "mp4 (h264)", "quality": 18, "fps": 16.0, **changes}
    prompt: dict = {}
    images, audio = add(prompt, "StandInImages", count=76), add(prompt, "StandInAudio", kind="tone", seconds=seconds)
    add(prompt, "WanS2VSaveVideo", images=[images, 0], audio=[audio, 0], **inputs)
    return renderer.client.run(prompt)


def test_save_video_says_that_picture_and_sound_part(renderer):
    """A bypassed Change Frame Rate gave slow motion, without a word."""
    before = len(renderer.server.log_text())
    save_images(renderer, 1.625)
    assert "not in sync: 76 frames at 16 fps last 4.75 s, and the sound 1.62 s. At 48 fps" in renderer.server.log_text()[before:]
    with pytest.raises(PromptFailed, match="if_out_of_sync is stop: nothing was written"):
        save_images(renderer, 1.625, if_out_of_sync="stop", filename_prefix="frame_rate/refused")
    assert not [path for path in renderer.output_files() if path.name.startswith("refused")]


@pytest.mark.parametrize("video_format", ["mp4 (h265)", "mkv (ffv1, lossless)"])
def test_a_format_that_browsers_do_not_play_shows_its_first_picture(video_format, renderer):
    outputs = save_images(renderer, 4.75, format=video_format)
    assert renderer.video_path(outputs).suffix == f".{video_format[:3]}"
    (shown,) = outputs.values()
    assert [file["type"] for file in shown["images"]] == ["temp"]
    assert not any(shown["animated"])
