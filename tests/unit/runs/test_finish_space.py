"""Room on the disk, for clips of every length."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from wan_s2v_pack.tests.crash.stand_in_run import FINGERPRINT, NUM_CLIPS, SEED, decode, encode, make_plan, sample
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.runs.finish import SPACE_MARGIN, finish_run, require_space, run_bytes
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore


def clip_sizes(folder):
    return [path.stat().st_size for path in sorted(folder.glob("clip_*"))]


def test_a_run_takes_what_was_said_although_its_clips_are_short(tmp_path):
    """Every clip of less than 73 frames once took 73 frames in float32 besides, 18 times what was said for one of 16 frames."""
    plan = make_plan()
    with RunStore.open(tmp_path / "song", FINGERPRINT) as store:
        finish_run(store, plan, SEED, sample=sample, encode=encode, decode=decode)
    sizes = clip_sizes(tmp_path / "song")
    assert len(sizes) == NUM_CLIPS
    assert sum(sizes) == pytest.approx(run_bytes(plan), abs=1000 * NUM_CLIPS)
    assert sum(sizes[3:]) == pytest.approx(run_bytes(plan, first_clip=3), abs=2000)


def test_no_clips_that_are_left_take_nothing():
    assert run_bytes(make_plan(), NUM_CLIPS) == 0


@pytest.mark.parametrize(("finished", "advice"), [(0, "use a shorter sound"), (2, "queue again to go on")])
def test_refused_before_anything_is_sampled(tmp_path, monkeypatch, finished, advice):
    plan = make_plan()
    needed = SPACE_MARGIN * run_bytes(plan, finished)
    store = SimpleNamespace(folder=tmp_path, num_finished=finished)
    for free in (needed - 10, needed + 10):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        if free > needed:
            require_space(store, plan)
        else:
            with pytest.raises(OSError, match=f"The frames need .* [GM]B, but only .*{advice}"):
                require_space(store, plan)


@pytest.mark.parametrize(("frames", "least", "most"), [(80, 1.1, 1.4), (48, 1.1, 1.5), (16, 1.1, 2.2)])
def test_a_minute_at_832x480(frames, least, most):
    """The figure of README.md: 1.3 GB. Short clips take more, as each keeps 19 latents of motion."""
    timeline = plan_timeline(60 * 16_000, 16_000, 60 * 16_000, frames_per_clip=frames)
    assert least < run_bytes(replace(make_plan(), timeline=timeline, height=480, width=832)) / 1e9 < most
