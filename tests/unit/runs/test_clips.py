"""The handle on a finished run."""

import gc

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.files import has_readers
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError


def make_plan(num_samples, rate_hz=16_000, num_channels=2):
    waveform = torch.arange(float(num_samples)).expand(num_channels, -1)
    timeline = plan_timeline(num_samples, rate_hz, num_samples * 16_000 // rate_hz, frames_per_clip=12)
    return Plan(timeline, 32, 48, torch.zeros(2, 3, 10), waveform, rate_hz, torch.zeros(1, 16, 1, 4, 6))


def make_clips(folder, plan, *, delete_with_handle=False):
    with RunStore.open(folder, {"seed": 1}) as store:
        for clip in range(plan.timeline.num_clips):
            frames = torch.full((plan.timeline.clip_frames(clip), 32, 48, 3), clip, dtype=torch.uint8)
            store.write_clip(clip, latents=torch.zeros(16, 3, 4, 6), motion_latents=None, frames=frames)
        return Clips(store, plan, delete_with_handle=delete_with_handle)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def test_frames_come_clip_by_clip_although_the_store_is_closed(folder):
    clips = make_clips(folder, make_plan(30_000))
    parts = list(clips.frames())
    assert [part.shape for part in parts] == [(9, 32, 48, 3), (12, 32, 48, 3), (9, 32, 48, 3)]
    assert [int(part.unique()) for part in parts] == [0, 1, 2]
    assert parts[0].dtype == torch.uint8
    assert [len(part) for part in clips.frames()] == [9, 12, 9]


def test_handle_knows_the_video(folder):
    clips = make_clips(folder, make_plan(30_000))
    assert (clips.num_frames, clips.width, clips.height, clips.fps, clips.sample_rate_hz) == (30, 48, 32, 16, 16_000)


@pytest.mark.parametrize(
    ("num_samples", "rate_hz", "expected"),
    [
        (30_000, 16_000, 30_000),
        (30_499, 16_000, 30_000),  # 30.499 frames: the rest of the sound is not shown
        (30_501, 16_000, 30_501),  # 30.501 frames: the last picture stays a little longer than the sound
        (44_100, 44_100, 44_100),
        (48_000 + 1499, 48_000, 48_000),
        (22_050 * 30 // 16, 22_050, 41_343),  # 30 frames are 41343.75 samples, of which 41343 exist
        (22_050 * 30 // 16 + 9, 22_050, 41_344),
    ],
)
def test_sound_is_cut_to_the_frames(folder, num_samples, rate_hz, expected):
    clips = make_clips(folder, make_plan(num_samples, rate_hz))
    assert clips.waveform.shape == (2, expected)
    assert clips.waveform[0, 100] == 100
    assert abs(expected / rate_hz - clips.num_frames / 16) <= 0.5 / 16


def test_unnamed_run_is_deleted_with_its_handle(folder):
    clips = make_clips(folder, make_plan(5000), delete_with_handle=True)
    assert folder.is_dir()
    frames = clips.frames()
    next(frames)
    del clips, frames
    gc.collect()
    assert not folder.exists()


def test_named_run_stays(folder):
    clips = make_clips(folder, make_plan(5000))
    del clips
    gc.collect()
    assert folder.is_dir()


def test_deleted_run_is_a_clear_error(folder):
    clips = make_clips(folder, make_plan(5000))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"frames of this run are gone: .*run does not exist\. Queue the prompt again"):
        next(clips.frames())


@pytest.mark.filterwarnings("error")
def test_deleting_a_run_twice_is_no_error(folder):
    clips = make_clips(folder, make_plan(5000), delete_with_handle=True)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    del clips
    gc.collect()


def networks():
    """Stand-ins for the VAE."""
    return lambda frames: torch.zeros(1, 16, 19, 4, 6), lambda latents, newest: torch.zeros(newest, 32, 48, 3)


@pytest.mark.parametrize("read", [lambda clips: clips.frames(), lambda clips: clips.exact_frames(*networks())])
def test_a_run_is_held_while_its_frames_are_read(folder, read):
    """`runs delete` and a redo took the clips from under Save Video."""
    clips = make_clips(folder, make_plan(30_000))
    frames = read(clips)
    next(frames)
    assert has_readers(folder)
    with pytest.raises(RunStoreError, match="is being read"):
        RunStore.open(folder, {"seed": 1}, redo_from=0)
    frames.close()
    assert not has_readers(folder)
    assert len(list(read(clips))) == 3
    assert not has_readers(folder)


@pytest.mark.parametrize("read", [lambda clips: clips.frames(), lambda clips: clips.exact_frames(*networks())])
def test_a_handle_from_before_a_redo_gives_no_frames_of_another_run(folder, read):
    clips = make_clips(folder, make_plan(30_000))
    with RunStore.open(folder, {"seed": 2}, redo_from=2) as store:
        with pytest.raises(RunStoreError, match=r"Run 'run' has changed since these clips were made.*Queue the prompt again"):
            next(read(clips))
        store.write_clip(2, latents=torch.ones(16, 3, 4, 6), motion_latents=None, frames=torch.zeros(9, 32, 48, 3, dtype=torch.uint8))
    with pytest.raises(RunStoreError, match="has changed"):
        next(read(clips))


def test_a_run_that_grows_stays_the_same(folder):
    """As for the video in progress."""
    with RunStore.open(folder, {"seed": 1}) as store:
        clips = Clips(store, make_plan(30_000), delete_with_handle=False)
        store.write_clip(0, latents=torch.zeros(16, 3, 4, 6), motion_latents=None, frames=torch.zeros(9, 32, 48, 3, dtype=torch.uint8))
        assert len(clips.read_frames(0)) == 9
