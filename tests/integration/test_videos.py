"""The main path: the file is what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from .graphs import EXACT, NUM_FRAMES, SIZE, TWO_CLIPS, quick_start

FPS = 16
FRAME_S = 1 / FPS


def check_file(video, seconds, size=(SIZE, SIZE)):
    assert (video.video_codec, video.audio_codec) == ("h264", "aac")
    assert video.size == size
    assert video.fps == FPS
    assert video.num_frames == round(seconds * FPS)
    assert np.allclose(np.diff(video.frame_times), FRAME_S, atol=1e-4)
    assert video.frame_times[0] == pytest.approx(0, abs=1e-4)
    assert abs(video.sound_seconds - video.picture_seconds) <= FRAME_S


def test_picture_moves_and_differs_from_clip_to_clip(renderer):
    frames = renderer.render(quick_start(seed=3, **TWO_CLIPS)).luma.astype(np.float32)
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))
    assert (changes > 0).mean() > 0.5, "the picture stands still"
    assert frames.std() > 1, "the picture is blank"


def test_sound_is_the_selected_part_of_the_input(renderer, sample_speech):
    waveform, rate = sample_speech
    video = renderer.render(quick_start(start=0.5, duration=1.0))
    check_file(video, 1.0)
    times = np.arange(len(video.sound)) / video.sample_rate
    expected = np.interp(0.5 + times, np.arange(len(waveform)) / rate, waveform)
    assert np.corrcoef(expected, video.sound)[0, 1] > 0.95


def test_two_videos_in_one_queue(renderer):
    prompts = [quick_start(seed=seed, filename_prefix=f"queue/{seed}") for seed in (1, 2)]
    ids = [renderer.client.queue(prompt) for prompt in prompts]
    paths = [renderer.video_path(renderer.client.wait(prompt_id)) for prompt_id in ids]
    assert paths[0] != paths[1]
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_same_prompt_again_gives_the_same_frames(renderer):
    first = renderer.render(quick_start(seed=7, filename_prefix="same/a", **EXACT))
    renderer.client.free()
    second = renderer.render(quick_start(seed=7, filename_prefix="same/b", **EXACT))
    assert np.array_equal(first.luma, second.luma)


@pytest.mark.parametrize("name", ["webm (vp9)", "mp4 (h264)"])
def test_formats(name, renderer):
    video = renderer.render(quick_start(format=name, quality=30, filename_prefix="formats/a"))
    assert video.path.suffix == "." + name.split()[0]
    assert video.num_frames == NUM_FRAMES
    assert abs(video.sound_seconds - video.picture_seconds) <= FRAME_S


def test_progress_counts_the_steps_of_all_clips(renderer):
    seen = []
    prompt = quick_start(seed=11, steps=3, **TWO_CLIPS)
    renderer.render(prompt, seen.append)
    (sampler,) = (key for key, node in prompt.items() if node["class_type"] == "WanS2VSampler")
    steps = [step for step in seen if step.node == sampler]
    assert steps, "the sampler reported no progress"
    assert [step.value for step in steps] == sorted(step.value for step in steps)
    assert steps[-1].value == steps[-1].maximum == 2 * 3
