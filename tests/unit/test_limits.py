"""Which numbers nodes and command line take, and what they say about others."""

import math

import pytest
from wan_s2v_pack.wan_s2v_model.limits import FRAMES_PER_CLIP, SIDES_PX, share_problem


@pytest.mark.parametrize("number", [64, 80, 832, 2048])
def test_sides_that_are_taken(number):
    assert SIDES_PX.allow(number)
    assert SIDES_PX.problem("width", number) is None


@pytest.mark.parametrize(("number", "nearest"), [(850, 848), (48, 64), (0, 64), (-16, 64), (2064, 2048), (5000, 2048), (63, 64)])
def test_sides_that_are_refused(number, nearest):
    assert not SIDES_PX.allow(number)
    assert SIDES_PX.problem("width", number) == f"width must be a multiple of 16 from 64 to 2048, got {number}; try {nearest}."


@pytest.mark.parametrize(("number", "nearest"), [(81, 80), (0, 4), (124, 120)])
def test_frames_per_clip_that_are_refused(number, nearest):
    problem = f"frames_per_clip must be a multiple of 4 from 4 to 120, got {number}; try {nearest}."
    assert FRAMES_PER_CLIP.problem("frames_per_clip", number) == problem


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_numbers_without_end_are_refused_in_words(number):
    assert SIDES_PX.lowest <= SIDES_PX.nearest(number) <= SIDES_PX.highest
    assert SIDES_PX.problem("width", number).startswith("width must be a ")
    assert len(SIDES_PX.problem("width", number)) < 200


def test_what_is_linked_is_not_known_yet():
    assert SIDES_PX.problem("width", None) is None
    assert share_problem("Guidance", "cfg_", None, 0.5, "") is None
    assert share_problem("Guidance", "cfg_", 0.5, None, "") is None


@pytest.mark.parametrize("wrong", ["x", [], {}, float("nan"), "0.5"])
def test_what_is_no_number_is_said_to_be_none(wrong):
    assert "must begin before it ends" in share_problem("Guidance", "cfg_", wrong, 0.5, "")
    assert "must begin before it ends" in share_problem("Guidance", "cfg_", 0.0, wrong, "")
    if not isinstance(wrong, float):
        assert "must be a number" in FRAMES_PER_CLIP.problem("frames_per_clip", wrong)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.0, 0.01), (0.99, 1.0)])
def test_shares_that_are_taken(start, end):
    assert share_problem("Guidance", "cfg_", start, end, "") is None


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)])
def test_shares_that_are_refused(start, end):
    assert share_problem("Guidance", "cfg_", start, end, "Set cfg to 1.") == (
        f"Guidance must begin before it ends, both between 0 and 1: got cfg_start_percent {start} and cfg_end_percent {end}. Set cfg to 1."
    )
