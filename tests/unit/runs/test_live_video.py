"""The video in progress: it plays at any moment, never stops a run, and goes on after a resume."""

import errno
import logging
import os
import threading
import weakref
from unittest.mock import Mock

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


NUM_CLIPS = 25
LEVELS = [20 + 8 * index for index in range(NUM_CLIPS)]  # grey of each clip


@pytest.fixture
def long_clips(store):
    num_samples = (NUM_CLIPS * 12 - 3) * RATE_HZ // FPS
    timeline = plan_timeline(num_samples, RATE_HZ, num_samples, frames_per_clip=12)
    tone = torch.sin(torch.arange(num_samples) * (2 * torch.pi * 200 / RATE_HZ))[None] * 0.5
    return Clips(
        store, Plan(timeline, HEIGHT, WIDTH, torch.zeros(2, 3, 10), tone, RATE_HZ, torch.zeros(1, 16, 1, 6, 8)), delete_with_handle=False
    )


def add_grey(store, clips, level=None):
    clip = store.num_finished
    level = LEVELS[clip] if level is None else level
    frames = torch.full((clips.timeline.clip_frames(clip), HEIGHT, WIDTH, 3), level, dtype=torch.uint8)
    store.write_clip(clip, latents=torch.zeros(16, 3, 6, 8), motion_latents=None, frames=frames)
    return clip


def show(store, clips, until, shown=range(0)):
    """As a process does: the stored clips, then new ones; returns what the file holds in the end."""
    with LiveVideo(clips, store.num_finished, lambda path: None, shown) as live:
        for _ in range(store.num_finished, until):
            live.consume(add_grey(store, clips))
    return live.shown


@pytest.fixture
def encoded(monkeypatch):
    """Counts frames that are encoded."""
    counted, write = [0], VideoWriter.write

    def spy(writer, frames):
        counted[0] += len(frames)
        write(writer, frames)

    monkeypatch.setattr(VideoWriter, "write", spy)
    return counted


def check_greys(path, clips, shown):
    levels, times, sound_end_s = play(path)
    expected = [LEVELS[clip] for clip in shown for _ in range(clips.timeline.clip_frames(clip))]
    assert levels == pytest.approx(expected, abs=3)
    assert times == pytest.approx([index / FPS for index in range(len(expected))], abs=1e-4)
    assert abs(sound_end_s - len(expected) / FPS) < 1.5 / FPS


def sound_of(path):
    pieces, rate = [], 0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            rate = frame.sample_rate
            pieces.append((round(float(frame.pts * frame.time_base) * rate), torch.from_numpy(frame.to_ndarray()[0])))
    made = torch.zeros(max(start + len(piece) for start, piece in pieces))
    for start, piece in pieces:
        made[max(0, start) : start + len(piece)] = piece[max(0, -start) :]
    return made, rate


def test_of_a_resume_only_new_clips_are_encoded(store, long_clips, encoded):
    """All were, from clip 0 on: 6.6 minutes of CPU for 700 clips. Guaranteed: not one frame that the file holds is encoded again,
    and picture and sound are those of a file that was written at once."""
    shown = show(store, long_clips, 22)
    assert (shown, encoded[0]) == (range(22), 22 * 12 - 3)
    assert show(store, long_clips, NUM_CLIPS, shown) == range(NUM_CLIPS)
    assert encoded[0] == NUM_CLIPS * 12 - 3
    path = long_clips.folder / "in_progress.mp4"
    check_greys(path, long_clips, range(NUM_CLIPS))
    assert [entry.name for entry in long_clips.folder.glob("in_progress*")] == ["in_progress.mp4"]
    resumed, rate = sound_of(path)
    show_at_once = LiveVideo(long_clips, 0, lambda path: None)
    for clip in range(NUM_CLIPS):
        show_at_once.consume(clip)
    show_at_once.close(wait_s=30)
    whole, _ = sound_of(path)
    seam = round((22 * 12 - 3) / FPS * rate)
    around = slice(seam - rate // 4, seam + rate // 4)
    assert (resumed[around] - whole[around]).abs().max() < 0.02, "nothing is heard where they meet"


def test_a_file_that_a_kill_has_cut_off_goes_on_behind_its_last_whole_clip(store, long_clips, encoded):
    shown = show(store, long_clips, 10)
    path = long_clips.folder / "in_progress.mp4"
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 8])
    before = encoded[0]
    assert show(store, long_clips, 12, shown) == range(12)
    assert 2 * 12 < encoded[0] - before <= 6 * 12
    check_greys(path, long_clips, range(12))


def test_clips_of_a_redo_are_encoded_anew(store, long_clips, encoded):
    """What the manifest lists as shown ends with the clips that are kept."""
    store.shown = show(store, long_clips, 4)
    add_grey(store, long_clips)
    store.drop_from(2)
    assert store.shown == range(2)
    LEVELS[2] = 200
    try:
        assert show(store, long_clips, 4, store.shown) == range(4)
        check_greys(long_clips.folder / "in_progress.mp4", long_clips, range(4))
    finally:
        LEVELS[2] = 36


@pytest.mark.parametrize("trouble", ["gone", "damaged", "far behind"])
def test_without_a_usable_file_it_begins_at_a_place_that_keeps_up_and_says_so(trouble, store, long_clips, encoded, caplog):
    shown = show(store, long_clips, 23)
    path = long_clips.folder / "in_progress.mp4"
    if trouble == "gone":
        path.unlink()
    elif trouble == "damaged":
        path.write_bytes(b"x" * 1000)
    else:
        shown = range(1)
    before = encoded[0]
    with caplog.at_level(logging.INFO, "wan_s2v"):
        assert show(store, long_clips, 25, shown) == range(3, 25)
    assert "the video in progress begins at clip 4 of 25" in caplog.text
    assert encoded[0] - before == 22 * 12
    check_greys(path, long_clips, range(3, 25))
    assert show(store, long_clips, 25, range(3, 25)) == range(3, 25)
    assert encoded[0] - before == 22 * 12
    check_greys(path, long_clips, range(3, 25))


def test_what_the_file_holds_is_kept_in_the_manifest_until_the_run_is_done(tmp_path, long_clips):
    settings = {"seed": 1, "clips": 4}
    with RunStore.open(tmp_path / "other", settings) as store:
        for clip in range(3):
            add_grey(store, long_clips)
            store.shown = range(clip)
    with RunStore.open(tmp_path / "other", settings) as store:
        assert store.shown == range(1)
        add_grey(store, long_clips)
    assert b"in_progress" not in (tmp_path / "other" / "manifest.json").read_bytes()


def test_frames_that_nobody_encodes_any_more_are_not_kept(clips, monkeypatch):
    """An hour of live video has 100 GB of them."""
    monkeypatch.setattr(live_video, "VideoWriter", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    frames = torch.zeros(4, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    alive = weakref.WeakSet()
    with LiveVideo(clips, 0, lambda path: None) as live:
        for number in range(20):
            part = frames.clone()
            alive.add(part)
            live.consume_frames(0, 4 * number, part)
        del part
        live._thread.join(60)
        live.consume_frames(0, 80, frames)
        assert len(alive) <= 2  # that of the error, and one that came in just then


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
