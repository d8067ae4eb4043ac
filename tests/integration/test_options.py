"""What Prepare Video offers: pose, continuing, first frame, sync mode, number of clips."""

from __future__ import annotations

import numpy as np
import pytest

from .graphs import EXACT, FRAMES_PER_CLIP, NUM_FRAMES, TWO_CLIPS, add, add_pose, inputs_of, quick_start

FPS = 16


def prepare(prompt) -> dict:
    return inputs_of(prompt, "WanS2VPrepare")


@pytest.mark.parametrize("sync_mode", ["aligned", "official"])
def test_length_by_sync_mode(sync_mode, renderer):
    assert renderer.render(quick_start(sync_mode=sync_mode, **TWO_CLIPS)).num_frames == 24


@pytest.mark.parametrize(("max_clips", "num_frames"), [(1, FRAMES_PER_CLIP - 3), (2, 24), (5, 24)])
def test_max_clips(max_clips, num_frames, renderer):
    video = renderer.render(quick_start(max_clips=max_clips, **TWO_CLIPS))
    assert video.num_frames == num_frames
    assert abs(video.sound_seconds - video.picture_seconds) <= 1 / FPS


@pytest.mark.parametrize("size", ["480P", "720P"])
def test_size_presets_follow_the_picture(size, client):
    """Only planned, not sampled: the tiny models would take minutes at these sizes."""
    prompt = quick_start(size=size)
    for unused in ("WanS2VSampler", "WanS2VSaveVideo"):
        del prompt[next(key for key, node in prompt.items() if node["class_type"] == unused)]
    outputs = client.run(prompt)
    assert any(node.get("images") for node in outputs.values())


def test_pose_changes_the_video(renderer):
    prompt = quick_start(**EXACT)
    add_pose(prompt, images=[add(prompt, "StandInImages", count=12, width=80, height=120), 0])
    posed = renderer.render(prompt)
    assert posed.num_frames == NUM_FRAMES
    assert not np.array_equal(posed.luma, renderer.render(quick_start(**EXACT)).luma)


def test_pose_at_another_rate(renderer):
    prompt = quick_start()
    add_pose(prompt, images=[add(prompt, "StandInImages", count=18), 0], fps=24.0)
    assert renderer.render(prompt).num_frames == NUM_FRAMES


def test_starting_from_the_picture_keeps_every_frame(renderer):
    video = renderer.render(quick_start(first_frame="from picture", max_clips=1, **TWO_CLIPS))
    assert video.num_frames == FRAMES_PER_CLIP


def test_continuing_from_earlier_frames(renderer):
    prompt = quick_start(max_clips=1, **TWO_CLIPS)
    prepare(prompt)["previous_frames"] = [add(prompt, "StandInImages", count=20), 0]
    assert renderer.render(prompt).num_frames == FRAMES_PER_CLIP


def test_stereo_audio_stays_stereo(renderer):
    import av

    prompt = quick_start()
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [add(prompt, "StandInAudio", kind="stereo", seconds=1.5), 0]
    video = renderer.render(prompt)
    with av.open(video.path) as container:
        assert container.streams.audio[0].codec_context.channels == 2


def test_silent_audio_is_allowed_with_a_warning(renderer):
    prompt = quick_start()
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [add(prompt, "StandInAudio", kind="silent", seconds=0.75), 0]
    before = len(renderer.server.log_text())
    assert renderer.render(prompt).num_frames == NUM_FRAMES
    assert "audio is silent" in renderer.server.log_text()[before:]
