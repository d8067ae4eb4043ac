"""A run of an earlier version, `data/old_run`, is read, verified and continued.

It was made by the code of commit 107c4a9: in a checkout of that commit, with this folder on the path and `old_run` imported, this wrote it:

    plan = old_run.make_plan(Plan, plan_timeline)
    fingerprint = run_fingerprint(**old_run.make_inputs(a_temporary_folder, plan))
    with RunStore.open(folder, fingerprint, versions={"torch": "2.11"}) as store:
        finish_run(store, plan, old_run.SEED, sample=one_that_raises_at_clip_2, encode=old_run.encode, decode=old_run.decode)

That code stored the frames behind each clip in it, in float32; today they are decoded again.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from wan_s2v_pack.cli.runs.folder import read_run
from wan_s2v_pack.cli.runs.verify import verify
from wan_s2v_pack.tests.unit.runs import old_run
from wan_s2v_pack.tests.unit.runs.old_run import NUM_CLIPS, NUM_OLD_CLIPS, SEED, decode, drawn_as_then, encode, make_inputs, sample
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.runs.changes import Notes, RunChangedError
from wan_s2v_pack.wan_s2v_model.runs.earlier import earlier_texts
from wan_s2v_pack.wan_s2v_model.runs.fingerprint import assumed_in_older_runs, run_fingerprint
from wan_s2v_pack.wan_s2v_model.runs.finish import finish_run
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

OLD_RUN = Path(__file__).parent / "data" / "old_run"


@pytest.fixture
def plan():
    return old_run.make_plan(Plan, plan_timeline)


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(OLD_RUN, tmp_path / "song")


@pytest.fixture
def inputs(tmp_path, plan):
    return make_inputs(tmp_path, plan)


def finish(folder, inputs):
    fingerprint = run_fingerprint(**inputs)
    earlier = earlier_texts(*(inputs[name] for name in ("model", "positive", "negative", "plan", "vae")))
    with RunStore.open(folder, fingerprint, Notes(assumed_in_older_runs(fingerprint), earlier)) as store:
        begin = store.num_finished
        finish_run(store, inputs["plan"], SEED, sample=sample, encode=encode, decode=decode)
    return begin


def tensors(folder, clip):
    return load_file(folder / f"clip_{clip:05d}.safetensors")


def test_it_is_read_and_verified(folder):
    run = read_run(folder)
    assert (run.problem, run.num_finished, run.num_clips, run.size_px) == ("", NUM_OLD_CLIPS, NUM_CLIPS, (8, 8))
    found = verify(run)
    assert (found.problems, found.num_hashed) == ((), NUM_OLD_CLIPS)


@drawn_as_then
def test_it_goes_on_and_ends_as_an_uninterrupted_run_of_today_does(tmp_path, folder, inputs):
    assert finish(folder, inputs) == NUM_OLD_CLIPS
    assert finish(tmp_path / "whole", inputs) == 0
    for clip in range(NUM_CLIPS):
        old, whole = tensors(folder, clip), tensors(tmp_path / "whole", clip)
        assert set(old) - set(whole) == ({"history"} if clip < NUM_OLD_CLIPS else set())
        for name, tensor in whole.items():
            assert torch.equal(old[name], tensor), (clip, name)


def test_other_inputs_are_refused(folder, inputs):
    with pytest.raises(RunChangedError, match="seed: 7 -> 8"):
        finish(folder, {**inputs, "seed": 8})
