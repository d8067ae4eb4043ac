"""Sigmas and timesteps of the reference's solvers."""

import math

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule, check_sigmas, guided_levels, guided_steps
from wan_s2v_pack.wan_s2v_model.sampling.solvers import SOLVERS

TIMESTEPS = {  # of the reference
    ("unipc", 4, 3.0): [999, 899, 749, 499],
    ("dpm++", 4, 3.0): [1000, 900, 750, 500],
    ("unipc", 4, 5.0): [999, 937, 833, 624],
    ("dpm++", 4, 5.0): [1000, 937, 833, 625],
    ("unipc", 10, 3.0): [999, 963, 922, 874, 817, 749, 666, 562, 428, 249],
    ("dpm++", 10, 3.0): [1000, 964, 923, 874, 818, 750, 666, 562, 428, 249],
    ("unipc", 10, 5.0): [999, 978, 952, 920, 882, 833, 768, 681, 555, 356],
    ("dpm++", 10, 5.0): [1000, 978, 952, 921, 882, 833, 769, 681, 555, 357],
}


@pytest.mark.parametrize("case", TIMESTEPS, ids=str)
def test_timesteps_are_those_of_the_reference(case):
    schedule = build_schedule(*case)
    assert schedule.timesteps.tolist() == TIMESTEPS[case]
    assert schedule.timesteps.dtype == torch.int64


@pytest.mark.parametrize(("solver", "start"), [("unipc", 0.999), ("dpm++", 1.0), ("euler", 1.0)])
@pytest.mark.parametrize("steps", [1, 2, 40, 1000])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 0.5])
def test_sigmas_are_the_shifted_even_grid(solver, start, steps, shift):
    sigmas = build_schedule(solver, steps, shift).sigmas
    base = [start * (1 - step / steps) for step in range(steps)]
    expected = [shift * s / (1 + (shift - 1) * s) for s in base] + [0.0]
    torch.testing.assert_close(sigmas, torch.tensor(expected), atol=2e-7, rtol=1e-6)
    assert sigmas.dtype == torch.float32
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_timesteps_are_truncated_sigmas_of_1000():
    schedule = build_schedule("unipc", 40, 3.0)
    exact = schedule.sigmas[:-1].double() * 1000
    assert (exact - schedule.timesteps).min() > -1e-3
    assert (exact - schedule.timesteps).max() < 1


def test_other_samplers_start_where_dpmpp_does():
    assert torch.equal(build_schedule("euler", 7, 3.0).sigmas, build_schedule("dpm++", 7, 3.0).sigmas)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
@pytest.mark.parametrize("steps", [1, 4, 40, 300])
def test_model_is_told_the_truncated_timestep_of_its_step(solver, steps):
    schedule = build_schedule(solver, steps, 3.0)
    exact = schedule.sigmas[:-1] * 1000
    assert torch.equal(schedule.truncated_timesteps(exact), schedule.timesteps)
    assert torch.equal(schedule.truncated_timesteps(exact[[0, 0]]), schedule.timesteps[[0, 0]])


def test_truncated_timesteps_survive_rounding_on_the_way():
    schedule = build_schedule("unipc", 40, 3.0)
    assert torch.equal(schedule.truncated_timesteps((schedule.sigmas[:-1] * 1000) * (1 + 1e-6)), schedule.timesteps)


@pytest.mark.parametrize(
    ("num_steps", "start", "end", "steps"),
    [
        (40, 0.0, 1.0, range(40)),
        (40, 0.1, 0.6, range(4, 24)),
        (10, 0.3, 0.7, range(3, 7)),  # 0.7 * 10 is a little more than 7
        (4, 0.0, 0.6, range(2)),
        (4, 0.6, 1.0, range(2, 4)),
        (1, 0.0, 0.4, range(1)),  # any share is one step at least
        (5, 0.0, 0.01, range(1)),
        (5, 0.99, 1.0, range(4, 5)),
        (5, 0.5, 0.51, range(3, 4)),
        (5, 1.0, 1.0, range(0)),
        (5, 0.5, 1.0, range(3, 5)),  # half rounds up
        (20, 0.125, 0.225, range(3, 5)),
        (1000, 0.29, 0.57, range(290, 570)),
    ],
)
def test_guided_steps_are_rounded_to_whole_ones(num_steps, start, end, steps):
    assert guided_steps(num_steps, start, end) == steps


@pytest.mark.parametrize("solver", ["unipc", "euler"])
@pytest.mark.parametrize("steps", [range(40), range(5), range(5, 40), range(4, 24), range(39, 40)])
def test_guided_levels_hold_the_levels_of_the_guided_steps(solver, steps):
    sigmas = build_schedule(solver, 40, 3.0).sigmas
    lowest, highest = guided_levels(sigmas, steps)
    assert [step for step in range(40) if lowest < float(sigmas[step]) <= highest] == list(steps)
    assert (lowest == -math.inf) == (steps.stop == 40)
    assert (highest == math.inf) == (steps.start == 0)


# Of other nodes


@pytest.mark.parametrize("levels", [[1.0, 0.0], [0.9, 0.5, 0.25], [1, 0.999, 1e-6, 0]])
def test_falling_noise_levels_are_taken(levels):
    sigmas = torch.tensor(levels, dtype=torch.float64)
    assert torch.equal(check_sigmas(sigmas), sigmas.float())


@pytest.mark.parametrize(
    ("levels", "problem"),
    [
        ([14.6, 3.1, 0.0], r"must fall from at most 1 to 0.*got 14\.6, 3\.1, 0, \.\.\., 0\. Make them for this MODEL with Basic Scheduler"),
        ([0.9, 0.9, 0.0], "must fall"),
        ([0.1, 0.9], "must fall"),
        ([1.0, math.nan, 0.0], "must fall"),
        ([1.0, 0.5, -0.1], "must fall"),
        ([1.0], r"at least 2 noise levels, one step apart; got shape \(1,\)"),
        ([], "at least 2 noise levels"),
        ([[1.0, 0.0]], r"one row of at least 2 noise levels, one step apart; got shape \(1, 2\)"),
    ],
)
def test_noise_levels_of_other_models_are_refused(levels, problem):
    with pytest.raises(ValueError, match=problem):
        check_sigmas(torch.tensor(levels))


# Strength of a dub


@pytest.mark.parametrize("solver", [*SOLVERS, "euler"])
def test_less_strength_takes_the_last_steps_of_more(solver):
    whole, part = build_schedule(solver, 20, 3.0), build_schedule(solver, 10, 3.0, 0.5)
    assert torch.equal(part.sigmas, whole.sigmas[10:])
    assert torch.equal(part.timesteps, whole.timesteps[10:])
    assert torch.equal(build_schedule(solver, 20, 3.0, 1.0).sigmas, whole.sigmas)
