"""The loop that makes, keeps and hands on the clips of a run, with networks that take no time."""

import errno
import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.tests.crash.stand_in_run import FINGERPRINT, HEIGHT, NUM_CLIPS, SEED, WIDTH, contents, decode, encode, make_plan, sample
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Continuity
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.reports.drift import measure_clips
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.finish import Networks, Stopwatch, finish_and_show, finish_run
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError


class Cancel(BaseException):
    """Like ComfyUI's interrupt, no Exception."""


@dataclass
class Stage:
    """Networks of which one fails when it is called for the n-th time."""

    failing: str = ""
    at_call: int = 0
    error: BaseException | None = None

    def __post_init__(self):
        self.calls = {}

    def function(self, name, work):
        def run(*arguments):
            self.calls[name] = self.calls.get(name, 0) + 1
            if (name, self.calls[name]) == (self.failing, self.at_call):
                raise self.error
            return work(*arguments)

        return run

    def run(self, folder, **options):
        work = {name: self.function(name, work) for name, work in (("sample", sample), ("decode", decode), ("encode", encode))}
        with RunStore.open(folder, FINGERPRINT) as store:
            finish_run(store, make_plan(), SEED, **work, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "song"
    Stage().run(folder)
    return contents(folder)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "song"


def num_clips(folder):
    return len(list(folder.glob("clip_*.safetensors")))


CALLS = {"sample": 3, "decode": 3, "encode": 3}  # of the third clip; a run that starts freely encodes behind each clip


@pytest.mark.parametrize(
    "error", [Cancel(), torch.OutOfMemoryError("no memory"), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("stage", CALLS)
def test_stop_at_any_stage_keeps_the_finished_clips_and_the_run_goes_on(folder, whole, stage, error):
    with pytest.raises(type(error)):
        Stage(stage, CALLS[stage], error).run(folder)
    assert num_clips(folder) == 2
    Stage().run(folder)
    assert contents(folder) == whole


WRITES = ("open", "flush", "rename", *(["flush of the folder"] if os.name == "posix" else []))
ERRORS = {
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "input/output error": OSError(errno.EIO, os.strerror(errno.EIO)),
    "cancel": Cancel(),
}


def fail_at(monkeypatch, stage, file_name, error):
    """Let one stage of one atomic write fail."""
    temporary = []  # of the file that is to fail, while it is written
    path_open, fsync, replace = Path.open, os.fsync, os.replace

    def opening(path, *arguments, **options):
        if path.name == f"{file_name}.tmp" and arguments[:1] == ("xb",):
            if stage == "open":
                raise error
            temporary.append("open")
        return path_open(path, *arguments, **options)

    def syncing(handle):
        if temporary == ["open"] and stage == "flush":
            raise error
        if temporary == ["renamed"] and stage == "flush of the folder":
            raise error
        fsync(handle)

    def replacing(source, target):
        if Path(target).name == file_name:
            if stage == "rename":
                raise error
            temporary[:] = ["renamed"]
        replace(source, target)

    monkeypatch.setattr(Path, "open", opening)
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("stage", WRITES)
@pytest.mark.parametrize("file_name", ["clip_00002.safetensors", "manifest.json"])
def test_trouble_while_a_clip_is_written_costs_no_other_clip(folder, whole, monkeypatch, file_name, stage, error):
    with pytest.raises(Cancel):
        Stage("sample", 3, Cancel()).run(folder)
    with monkeypatch.context() as patch:
        fail_at(patch, stage, file_name, ERRORS[error])
        with pytest.raises(Cancel if error == "cancel" else RunStoreError, match=None if error == "cancel" else "clip 3 of run 'song'"):
            Stage().run(folder)
    assert num_clips(folder) == 2
    assert not list(folder.glob("*.tmp"))
    Stage().run(folder)
    assert contents(folder) == whole


def test_folder_that_vanishes_while_a_clip_is_made(folder):
    def sample_and_delete(clip, conditioning, noise):
        if clip == 1:
            deadline = time.monotonic() + 10
            while not (folder / "clip_00000.safetensors").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            folder.rename(folder.with_name("elsewhere"))
        return sample(clip, conditioning, noise)

    with RunStore.open(folder, FINGERPRINT) as store, pytest.raises(RunStoreError, match="run 'song'"):
        finish_run(store, make_plan(), SEED, sample=sample_and_delete, encode=encode, decode=decode)
    assert (folder.with_name("elsewhere") / "clip_00000.safetensors").is_file()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_not_stored(folder, value):
    with RunStore.open(folder, FINGERPRINT) as store, pytest.raises(ValueError, match="The model produced NaN or infinite latents"):
        finish_run(store, make_plan(), SEED, sample=lambda clip, known, noise: noise * value, encode=encode, decode=decode)
    assert num_clips(folder) == 0


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(None, r"Model\.$"), (torch.bfloat16, r"computed in bfloat16\.$"), (torch.float16, r"float16.* end at 65,504: bf16")],
)
def test_an_overflow_names_the_type_in_which_the_model_computes(folder, dtype, words):
    def overflow(clip, known, noise):
        return (noise.half() * 1e6).float()

    networks = Networks(overflow, encode, decode, dtype)
    with RunStore.open(folder, FINGERPRINT) as store, pytest.raises(ValueError, match=words):
        finish_and_show(store, make_plan(), SEED, networks, show=lambda path: None, peak_bytes=lambda: None)


def test_clocks_that_jump_do_no_harm(folder, whole, monkeypatch):
    with pytest.raises(Cancel):
        Stage("sample", 3, Cancel()).run(folder)
    for path in folder.iterdir():
        os.utime(path, (2**32, 2**32))  # in the future
    monkeypatch.setattr(time, "time", lambda: 0.0)
    Stage().run(folder)
    assert contents(folder) == whole


def test_clip_that_adds_no_frame_is_stored_too(folder):
    """The reference makes one at some lengths."""
    num_samples = 5 * 16_000 + 80
    timeline = plan_timeline(num_samples, 16_000, num_samples, sync_mode="official", free_start=False)
    assert [timeline.clip_frames(clip) for clip in range(timeline.num_clips)] == [80, 0]
    heard, history = torch.zeros(2, 3, timeline.num_audio_frames), torch.zeros(73, HEIGHT, WIDTH, 3)
    plan = replace(make_plan(), timeline=timeline, audio_features=heard, history=history)
    with RunStore.open(folder, FINGERPRINT) as store:
        finish_run(store, plan, SEED, sample=sample, decode=decode, encode=encode)
        assert store.num_finished == timeline.num_clips
        assert [len(store.read_frames(clip)) for clip in range(2)] == [80, 0]
        assert len(measure_clips(Clips(store, plan, delete_with_handle=False).frames())) == 1


def test_each_clip_is_handed_on_once_it_can_be_read(folder):
    seen = []

    def on_stored(clip):
        seen.append((clip, (folder / f"clip_{clip:05d}.safetensors").is_file()))

    with pytest.raises(Cancel):
        Stage("sample", 3, Cancel()).run(folder, on_stored=on_stored)
    assert seen == [(0, True), (1, True)]
    Stage().run(folder, on_stored=on_stored)
    assert seen == [(clip, True) for clip in range(NUM_CLIPS)]


def test_log_has_the_figures_of_each_clip(folder, caplog):
    with caplog.at_level(logging.INFO, "wan_s2v"):
        Stage().run(folder, peak_bytes=lambda: 31.25e9)
    lines = [record.message for record in caplog.records if "finished" in record.message]
    assert len(lines) == NUM_CLIPS
    for word in ("clip 2 of 5 finished: 12 frames", "sampled 0.", "decoded 0.", "encoded 0.", "written 0.", "31.2 GB of device memory"):
        assert word in lines[1]


def test_stopwatch_counts_failed_work_too():
    watch = Stopwatch()
    with pytest.raises(Cancel):
        watch.timed("slept", Stage("sleep", 1, Cancel()).function("sleep", time.sleep))(0.01)
    watch.timed("slept", time.sleep)(0.06)
    assert watch.report().startswith("slept 0.1 s")
    assert watch.report() == ""


def test_no_thread_is_left_behind(folder):
    before = threading.active_count()
    with pytest.raises(Cancel):
        Stage("decode", 2, Cancel()).run(folder)
    assert threading.active_count() == before


PLANS = {
    "free start": lambda plan: plan,
    "earlier frames": lambda plan: replace(
        plan,
        timeline=replace(plan.timeline, free_start=False),
        history=torch.rand(73, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1)),
    ),
    "anchor of colours": lambda plan: replace(plan, continuity=Continuity("colour transfer")),
    "anchor of latents": lambda plan: replace(plan, continuity=Continuity("latent statistics")),
    "longer than the history": lambda plan: replace(plan, timeline=replace(plan.timeline, frames_per_clip=28, num_frames=137)),
}


@pytest.mark.parametrize("clip", range(1, NUM_CLIPS))
@pytest.mark.parametrize("name", PLANS)
def test_history_of_short_clips_is_made_again_to_the_bit(folder, name, clip):
    """It is not stored: at 832x480 it would take 350 MB a clip."""
    plan = PLANS[name](make_plan())
    with RunStore.open(folder, FINGERPRINT) as store:
        finish_run(store, plan, SEED, sample=sample, encode=encode, decode=decode)
    whole = contents(folder)
    with RunStore.open(folder, FINGERPRINT, redo_from=clip) as store:
        assert store.num_finished == clip
        finish_run(store, plan, SEED, sample=sample, encode=encode, decode=decode)
    assert contents(folder) == whole
