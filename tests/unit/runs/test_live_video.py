"""The video in progress: it plays at any moment, never stops a run, and goes on after a resume."""

import errno
import logging
import os
import threading

import av
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.media.video_formats import LIVE_FORMAT
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter, VideoWriterError
from wan_s2v_pack.wan_s2v_model.runs import live_video
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.live_video import LiveVideo
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

FPS = 16
RATE_HZ = 16_000
NUM_FRAMES = 30  # 9 + 12 + 9
HEIGHT, WIDTH = 48, 64


def sound(num_frames):
    return torch.rand(1, num_frames * RATE_HZ // FPS, generator=torch.Generator().manual_seed(0)) - 0.5


def pictures(num_frames):
    """Frame n is grey of level 20 + 6 n."""
    return (20 + 6 * torch.arange(num_frames)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, HEIGHT, WIDTH, 3)


def play(path):
    """Grey levels and times of the frames, and the seconds of sound."""
    levels, times, sound_end_s = [], [], 0.0
    with av.open(str(path)) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                levels.append(float(frame.to_ndarray(format="gray").mean()))
                times.append(float(frame.pts * frame.time_base))
            else:
                sound_end_s = float((frame.pts + frame.samples) * frame.time_base)
    return levels, times, sound_end_s


def check(path, num_frames):
    levels, times, sound_end_s = play(path)
    assert levels == pytest.approx([20 + 6 * index for index in range(num_frames)], abs=3)
    assert times == pytest.approx([index / FPS for index in range(num_frames)], abs=1e-4)
    assert abs(sound_end_s - num_frames / FPS) < 1.5 / FPS


@pytest.fixture
def store(tmp_path):
    with RunStore.open(tmp_path / "run", {"seed": 1}) as store:
        yield store


@pytest.fixture
def clips(store):
    num_samples = NUM_FRAMES * RATE_HZ // FPS
    timeline = plan_timeline(num_samples, RATE_HZ, num_samples, frames_per_clip=12)
    plan = Plan(timeline, HEIGHT, WIDTH, torch.zeros(2, 3, 10), sound(NUM_FRAMES), RATE_HZ, torch.zeros(1, 16, 1, 6, 8))
    return Clips(store, plan, delete_with_handle=False)


def add_clip(store, clips):
    clip = store.num_finished
    start = clips.timeline.first_frame(clip)
    frames = pictures(NUM_FRAMES)[start : start + clips.timeline.clip_frames(clip)]
    store.write_clip(clip, latents=torch.zeros(16, 3, 6, 8), motion_latents=None, frames=frames)
    return clip


def test_file_plays_while_it_is_written(tmp_path):
    """Each copy stands for a process that was killed."""
    path, copy = tmp_path / "live.mp4", tmp_path / "copy.mp4"
    frames, audio = pictures(32), (sound(32), RATE_HZ)
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=FPS, video_format=LIVE_FORMAT, quality=23, audio=audio) as writer:
        for start in range(0, 32, 8):
            writer.write(frames[start : start + 8])
            copy.write_bytes(path.read_bytes())
            num_frames = len(play(copy)[0])
            assert start + 3 <= num_frames <= start + 8
            check(copy, num_frames)
    check(path, 32)


def test_file_stays_after_an_exception(tmp_path):
    path = tmp_path / "live.mp4"

    def write_and_fail():
        with VideoWriter(
            path, width=WIDTH, height=HEIGHT, fps=FPS, video_format=LIVE_FORMAT, quality=23, audio=(sound(9), RATE_HZ)
        ) as writer:
            writer.write(pictures(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    check(path, 9)


def test_every_clip_is_shown_and_the_end_is_complete(store, clips):
    shown = []
    with LiveVideo(clips, 0, shown.append) as live:
        for _ in range(3):
            live.consume(add_clip(store, clips))
    assert shown == [live.path] * 3
    check(live.path, NUM_FRAMES)


def test_a_resume_begins_with_the_stored_clips(store, clips):
    with LiveVideo(clips, 0, lambda path: None) as live:
        live.consume(add_clip(store, clips))
    check(live.path, 9)
    with LiveVideo(clips, store.num_finished, lambda path: None) as live:
        for _ in range(2):
            live.consume(add_clip(store, clips))
    check(live.path, NUM_FRAMES)


def test_a_cancel_does_not_wait_for_waiting_clips(store, clips):
    for _ in range(3):
        add_clip(store, clips)
    grown, go_on = threading.Event(), threading.Event()

    def show(path):
        grown.set()
        go_on.wait(10)

    live = LiveVideo(clips, 3, show)
    assert grown.wait(10)
    closing = threading.Thread(target=live.close)
    closing.start()
    assert live._stopped.wait(10)
    go_on.set()
    closing.join()
    check(live.path, 9)


def test_nothing_is_written_before_the_first_clip(store, clips):
    with LiveVideo(clips, 0, lambda path: None) as live:
        pass
    assert not live.path.exists()


@pytest.mark.parametrize("trouble", ["a folder in the way", "clip missing", "encoder", "disk full"])
def test_trouble_is_logged_and_ends_only_the_video(trouble, store, clips, caplog, monkeypatch):
    clip = add_clip(store, clips)
    if trouble == "a folder in the way":
        (clips.folder / live_video.LIVE_VIDEO_NAME).mkdir()
    elif trouble == "clip missing":
        next(clips.folder.glob("clip_*")).unlink()
    else:
        error = ValueError("no") if trouble == "encoder" else VideoWriterError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(VideoWriter, "write", lambda writer, frames: (_ for _ in ()).throw(error))
    with caplog.at_level(logging.WARNING, "wan_s2v"), LiveVideo(clips, 0, lambda path: None) as live:
        live.consume(clip)
        live.consume(clip)
    assert caplog.text.count("no video in progress from here on") == 1
