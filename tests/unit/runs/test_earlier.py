"""Runs of earlier versions name their inputs by earlier rules; what decides is whether the inputs are the same."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.unit.runs import old_run
from wan_s2v_pack.tests.unit.runs.old_run import drawn_as_then
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.runs.changes import changes_of
from wan_s2v_pack.wan_s2v_model.runs.earlier import digest_of_floats, earlier_texts
from wan_s2v_pack.wan_s2v_model.runs.fingerprint import assumed_in_older_runs, run_fingerprint
from wan_s2v_pack.wan_s2v_model.runs.manifest import read_manifest

OLD_RUN = Path(__file__).parent / "data" / "old_run"


@pytest.fixture
def inputs(tmp_path):
    return old_run.make_inputs(tmp_path, old_run.make_plan(Plan, plan_timeline))


def texts(inputs):
    return earlier_texts(*(inputs[name] for name in ("model", "positive", "negative", "plan", "vae")))


@drawn_as_then
def test_they_are_those_of_a_run_that_an_earlier_version_wrote(inputs):
    old = read_manifest(OLD_RUN).fingerprint
    assert [name for name, text in texts(inputs).items() if name in old and old[name] not in text()] == []
    new = run_fingerprint(**inputs)
    assert changes_of({**assumed_in_older_runs(new), **old}, new, texts(inputs)) == {}
    assert {"model", "loras"} <= set(changes_of(old, new))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model", lambda inputs: os.utime(inputs["model"].cached_patcher_init[1][0], ns=(1, 1))),
        ("loras", lambda inputs: inputs["model"].patches.clear()),
        ("model_nodes", lambda inputs: inputs["model"].object_patches.update(model_sampling=SimpleNamespace(shift=8.0))),
        ("vae", lambda inputs: inputs["vae"].first_stage_model.bias.data.add_(1)),
        ("prompt", lambda inputs: inputs["positive"][0][0].add_(1)),
        ("audio", lambda inputs: inputs["plan"].waveform.add_(1)),
    ],
)
def test_another_input_is_none_of_them(inputs, name, change):
    old = read_manifest(OLD_RUN).fingerprint
    change(inputs)
    assert name in changes_of(old, run_fingerprint(**inputs), texts(inputs))


def test_only_what_has_changed_is_computed_by_the_earlier_rule():
    def never():
        raise AssertionError

    assert changes_of({"model": "a", "loras": "x"}, {"model": "a", "loras": "b"}, {"model": never, "loras": lambda: ("x",)}) == {}


def test_halves_counted_as_floats():
    assert digest_of_floats(torch.ones(2, dtype=torch.bfloat16)) == digest_of_floats(torch.ones(2))
    assert digest_of_floats() == ""
