"""What the measurements of model calls mean in words."""

from __future__ import annotations

import copy

import pytest
from wan_s2v_pack.cli.compare.agreement import EXACT_LIMIT, ROUNDING_RATIO, judge_calls

GOOD = {
    "cases": {
        "first clip": {"exact": 2.1e-6, "ours": 0.0033, "comfyui": 0.0079, "late": 0.4},
        "later clip": {"exact": 1.9e-6, "ours": 0.0032, "comfyui": 0.0078, "late": 0.3},
    },
    "dtype": "bfloat16",
    "seconds": {"ours": 12.3, "comfyui": 15.8},
}


def with_later(**changes):
    measured = copy.deepcopy(GOOD)
    measured["cases"]["later clip"] |= changes
    return list(judge_calls(measured))


def test_agreement_in_words():
    calls, rounding, time = judge_calls(GOOD)
    assert [finding.status for finding in (calls, rounding, time)] == ["ok"] * 3
    assert "the same function" in calls.text
    assert "first clip 2.1e-06; later clip 1.9e-06 (limit 1e-04; with the sound three frames late it would be 3.0e-01)" in calls.text
    assert (rounding.topic, time.text) == ("In bfloat16", "ours 12 s, ComfyUI's 16 s, with loading into memory")
    assert "first clip: ours by 0.33%, ComfyUI's by 0.79%" in rounding.text


@pytest.mark.parametrize(("exact", "status"), [(0.9 * EXACT_LIMIT, "ok"), (1.1 * EXACT_LIMIT, "problem"), (0.5, "problem")])
def test_one_case_that_differs_is_enough(exact, status):
    calls, *_ = with_later(exact=exact)
    assert calls.status == status
    assert ("NOT the same function" in calls.text) == (status == "problem")


@pytest.mark.parametrize("name", ["exact", "late"])
def test_not_finite_in_float32_is_the_file(name):
    calls, *_ = with_later(**{name: None})
    assert (calls.status, "not finite in float32" in calls.text) == ("problem", True)
    assert "Download it again" in calls.advice


@pytest.mark.parametrize(
    ("ours", "comfyui", "status"),
    [
        (0.0079 * ROUNDING_RATIO * 0.99, 0.0079, "ok"),
        (0.0079 * ROUNDING_RATIO * 1.01, 0.0079, "problem"),
        (0.3, 0.4, "problem"),
        (None, 0.0079, "problem"),
        (0.0033, None, "problem"),
    ],
)
def test_rounding(ours, comfyui, status):
    calls, rounding, _ = with_later(ours=ours, comfyui=comfyui)
    assert (calls.status, rounding.status) == ("ok", status)
    assert bool(rounding.advice) == (status == "problem")
