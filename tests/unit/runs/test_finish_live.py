"""A live run in its folder: kept clip by clip, shown block by block, and the same bytes wherever it was cut off."""

import itertools
import math
import threading

import pytest
import torch
from safetensors import safe_open
from wan_s2v_pack.tests.live_stand_in import Decoder, Network, encode, make_plan, make_sampler
from wan_s2v_pack.tests.run_folders import clip_path
from wan_s2v_pack.wan_s2v_model.media.video_reader import count_frames
from wan_s2v_pack.wan_s2v_model.runs.clips import LiveClips
from wan_s2v_pack.wan_s2v_model.runs.finish import LiveNetworks, NotFiniteError, finish_live, run_bytes, video_in_progress
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
from wan_s2v_pack.wan_s2v_model.runs.tail import tail_of_clips
from wan_s2v_pack.wan_s2v_model.sampling.live_clips import LiveJob

FINGERPRINT = {"seed": 7, "frame_rate": 25, "clips": 6}
NUM_FRAMES = 6 * 48 - 13


class Killed(BaseException):
    """The process ends."""


def make_job(num_frames=NUM_FRAMES, **options):
    return LiveJob(make_plan(num_frames), 7, **{"restart_clips": 2, **options})


def finish(folder, job, *, kill_at=math.inf, network=None, show=lambda path: None):
    """Make the clips of a run; a kill comes behind so many steps."""
    with RunStore.open(folder, FINGERPRINT) as store, video_in_progress(store, job.plan, show) as live:
        attempt(store, job, live, kill_at=kill_at, network=network)


def attempt(store, job, live, *, kill_at=math.inf, network=None):
    steps = itertools.count(1)

    def on_step(block, step, x):
        if next(steps) == kill_at:
            raise Killed

    networks = LiveNetworks(make_sampler(job, network, on_step), encode, Decoder, torch.float16)
    finish_live(store, job, networks, live, peak_bytes=lambda: None)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("clip_*"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "song"
    finish(folder, make_job())
    return folder


def test_run_has_every_clip_and_frame(whole):
    store = RunStore.reading(whole)
    assert store.num_finished == 6
    assert sum(len(store.read_frames(clip)) for clip in range(6)) == NUM_FRAMES
    assert count_frames(whole / "in_progress.mp4") == NUM_FRAMES


@pytest.mark.parametrize("kill_at", [1, 17, 40, 71, 80])
def test_killed_and_queued_again_gives_the_same_bytes(kill_at, whole, tmp_path):
    folder = tmp_path / "song"
    with pytest.raises(Killed):
        finish(folder, make_job(), kill_at=kill_at)
    finish(folder, make_job())
    assert contents(folder) == contents(whole)
    assert count_frames(folder / "in_progress.mp4") == NUM_FRAMES


def test_killed_again_and_again(whole, tmp_path):
    folder = tmp_path / "song"
    for _ in range(100):
        try:
            finish(folder, make_job(), kill_at=18)
        except Killed:
            continue
        break
    assert contents(folder) == contents(whole)


def test_the_video_in_progress_grows_with_every_block(tmp_path):
    shown = []
    finish(tmp_path / "song", make_job(100), show=lambda path: shown.append(path))
    assert len(shown) == 9


@pytest.mark.parametrize("kill_at", [6, 22, 45])
def test_a_stream_goes_on_where_memory_ran_out_in_the_middle_of_a_clip(kill_at, whole, tmp_path):
    """What a reader has taken of the file stays; the blocks that are made once more are not appended once more."""
    folder, job = tmp_path / "song", make_job()
    grown, sizes = threading.Semaphore(0), []

    def show(path):
        sizes.append(path.stat().st_size)
        grown.release()

    with RunStore.open(folder, FINGERPRINT) as store, video_in_progress(store, job.plan, show) as live:
        with pytest.raises(Killed):
            attempt(store, job, live, kill_at=kill_at)
        for _ in range((kill_at - 1) // job.steps):  # until all blocks are in the file
            assert grown.acquire(timeout=60)
        taken = (folder / "in_progress.mp4").read_bytes()
        attempt(store, job, live)
    assert contents(folder) == contents(whole)
    assert sizes == sorted(sizes)
    assert taken
    assert (folder / "in_progress.mp4").read_bytes().startswith(taken)
    assert count_frames(folder / "in_progress.mp4") == NUM_FRAMES


def test_clips_are_as_large_as_foreseen(whole):
    expected = run_bytes(make_job().plan, later_steps=3)
    stored = sum(path.stat().st_size for path in whole.glob("clip_*"))
    assert 0.9 * expected < stored < expected + 6 * 1024


def test_inputs_of_the_later_steps_are_kept(whole):
    with safe_open(clip_path(whole, 0), framework="pt") as file:
        assert file.get_slice("step_inputs").get_shape() == [4, 3, 16, 3, 4, 6]
        assert "motion_latents" not in file.keys()  # noqa: SIM118 - not a mapping


def test_clips_give_exact_frames_and_their_tail(whole):
    job, store = make_job(), RunStore.reading(whole)
    clips = LiveClips(store, job, delete_with_handle=False, vae=None, open_decoder=Decoder)
    frames = torch.cat(list(clips.exact_frames(encode, None)))
    stored = torch.cat(list(clips.frames()))
    assert torch.equal((frames * 255).to(torch.uint8), stored)
    assert torch.equal(torch.cat(list(clips.exact_frames(encode, None, 5))), frames[-len(store.read_frames(5)) :])
    assert len(tail_of_clips(clips, 16, encode, None)) == 16


def test_latents_that_are_no_numbers_end_the_run(tmp_path):
    class Broken(Network):
        def forward(self, x, *told):
            return super().forward(x, *told) * (math.nan if self.num_calls > 30 else 1)

    with pytest.raises(NotFiniteError, match="float16"):
        finish(tmp_path / "song", make_job(), network=Broken())
    assert RunStore.reading(tmp_path / "song").num_finished == 1
