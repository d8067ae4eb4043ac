"""Pose videos through the whole graph: when each picture is seen, at every rate, and what the options do."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from .graphs import EXACT, NUM_FRAMES, SIZE, add, add_pose, change, find, flash_graph, inputs_of, quick_start
from .sounds import write_wav

FPS = 16
FLASH_S = 0.125
SECONDS = 60
RATES = {"16": Fraction(16), "24": Fraction(24), "25": Fraction(25), "29.97": Fraction(30000, 1001), "30": Fraction(30), "60": Fraction(60)}


def write_video(path, levels, fps, size=SIZE, codec=("libx264", "yuv420p", {"qp": "0"})):
    """Grey pictures of these levels."""
    encoder, pixel_format, options = codec
    with av.open(path, "w") as container:
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = size, size, pixel_format
        for number, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def flashes(fps, seconds=SECONDS):
    """Levels of pictures that flash at the beginning of every second."""
    return [230 if number / fps % 1 < FLASH_S else 25 for number in range(int(seconds * fps))]


def pose_graph(renderer, seconds, **changes):
    """The graph of the stand-ins with a model that shows its pose."""
    name = f"silence_{seconds}.wav"
    write_wav(renderer.server.input_directory / name, np.random.default_rng(0).normal(0, 0.01, round(seconds * 16_000)), 16_000)
    prompt = flash_graph(cfg=1.0, steps=1, frames_per_clip=80, **changes)
    prompt[find(prompt, "StandInModel")]["class_type"] = "StandInPoseModel"
    inputs_of(prompt, "LoadAudio")["audio"] = name
    return prompt


LOSSLESS = "mkv (ffv1, lossless)"


def load_video(renderer, prompt, name, levels, fps, **options):
    write_video(renderer.server.input_directory / name, levels, fps, **options)
    return [add(prompt, "LoadVideo", file=name), 0]


def level(video):
    return video.luma.astype(np.float64).mean(axis=(1, 2))


def starts(bright, fps):
    """Seconds at which flashes begin."""
    return np.flatnonzero(bright & ~np.roll(bright, 1)) / fps


@pytest.mark.parametrize("rate", RATES)
def test_flashes_of_a_minute_are_within_half_a_frame_of_every_second(rate, renderer):
    fps = RATES[rate]
    prompt = pose_graph(renderer, SECONDS, filename_prefix=f"pose/{rate.replace('.', '_')}")
    add_pose(prompt, video=load_video(renderer, prompt, f"flashes_{rate}.mp4", flashes(fps), fps))
    seen = starts(level(renderer.render(prompt)) > 128, FPS)
    shown = starts(np.array(flashes(fps)) > 128, float(fps))
    assert len(seen) == len(shown) == SECONDS
    assert np.abs(seen - shown).max() <= 0.5 / FPS


@pytest.mark.parametrize("end", ["hold", "loop", "release"])
def test_end_of_the_pose(end, renderer):
    fps, seconds = Fraction(24), 12
    prompt = pose_graph(renderer, seconds, filename_prefix=f"pose/{end}")
    video = load_video(renderer, prompt, "bright_end.mp4", [25] * 60 + [230] * 12, fps)  # 2.5 s and 0.5 s
    add_pose(prompt, video=video, at_end=end)
    before = len(renderer.server.log_text())
    bright = level(renderer.render(prompt)) > 128
    expected = np.zeros(seconds * FPS, bool)
    expected[40:48] = True
    if end == "hold":
        expected[40:] = True
    if end == "loop":
        expected = np.tile(expected[:48], seconds // 3)
    wrong = np.flatnonzero(bright != expected)
    assert len(wrong) <= 3 * (end == "release")  # where a latent of 4 frames begins with a picture
    assert f"the pose lasts 3.00 s and the video 12.00 s: {SAYS[end]}" in renderer.server.log_text()[before:]


SAYS = {"hold": "its last picture stays", "loop": "it starts again", "release": "the model moves freely from there"}


def test_frames_and_both_kinds_of_video_are_the_same_pose(renderer):
    """Read from the file clip by clip, read from the file at once, and made from frames."""
    lossless = ("ffv1", "bgr0", {})
    frames = {}
    for kind in ("pose", "file", "made"):
        prompt = quick_start(format=LOSSLESS)
        video = load_video(renderer, prompt, "pose.mkv", range(30, 120, 5), Fraction(24), codec=lossless)
        images = [add(prompt, "GetVideoComponents", video=video), 0]
        given = {
            "pose": {"images": images, "fps": 24.0},
            "file": {"video": video},
            "made": {"video": [add(prompt, "CreateVideo", images=images, fps=24.0), 0]},
        }
        add_pose(prompt, **given[kind])
        frames[kind] = renderer.render(prompt).luma
    assert np.array_equal(frames["made"], frames["pose"])
    differences = np.abs(frames["file"].astype(int) - frames["pose"])  # ComfyUI converts colours in float, which rounds in another way
    assert differences.max() <= 2
    assert np.abs(renderer.render(quick_start(format=LOSSLESS)).luma.astype(int) - frames["pose"]).max() > 10


def test_a_part_of_a_video(renderer):
    prompt = pose_graph(renderer, 1)
    video = load_video(renderer, prompt, "two_flashes.mp4", [25] * 24 + [230] * 6 + [25] * 18, Fraction(24))  # flashes from 1 to 1.25 s
    part = {"start_time": 0.5, "duration": 1.0, "strict_duration": False}
    add_pose(prompt, video=[add(prompt, "Video Slice", video=video, **part), 0])
    bright = level(renderer.render(prompt)) > 128
    assert np.flatnonzero(bright).tolist() == [8, 9, 10, 11]


def with_pose(run_name="", **changes):
    prompt = quick_start(**EXACT, run_name=run_name)
    add_pose(prompt, images=[add(prompt, "StandInImages", count=NUM_FRAMES), 0], **changes)
    return prompt


def test_strength_and_steps_change_the_video(renderer):
    changes = ({}, {"strength": 0.5}, {"end_percent": 0.5}, {"start_percent": 0.5})
    videos = [renderer.render(with_pose(**change)).luma for change in changes]
    assert len({video.tobytes() for video in videos}) == len(changes)


def test_strength_0_is_the_video_without_a_pose(renderer):
    assert np.array_equal(renderer.render(with_pose(strength=0.0)).luma, renderer.render(quick_start(**EXACT)).luma)


def test_a_run_is_not_continued_with_another_pose(renderer):
    from wan_s2v_pack.cli.comfyui.client import ComfyError

    renderer.render(with_pose(run_name="posed"))
    for changes in ({"strength": 0.5}, {"end_percent": 0.5}):
        with pytest.raises(ComfyError, match="pose"):
            renderer.render(change(with_pose(run_name="posed", **changes), if_changed="stop"))
