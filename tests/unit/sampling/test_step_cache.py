"""The step cache on a model of few numbers: which steps are guessed, that the stated error is the true one, what a run keeps."""

import json
import math

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule
from wan_s2v_pack.wan_s2v_model.sampling.solvers import SOLVERS
from wan_s2v_pack.wan_s2v_model.sampling.step_cache import SAMPLED, CachedClips, Errors, StepCache, Steps, thinned

STEPS = 40
SHAPE = (1, 16, 2, 4, 4)
SIGMAS = build_schedule("unipc", STEPS, 3.0).sigmas


class StandIn:
    """A smooth velocity field that depends on latents, noise level and clip; counts its calls."""

    def __init__(self):
        self.calls = 0
        self.matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) / 4

    def velocity(self, x, level, clip):
        mixed = torch.einsum("ij,bjfhw->bifhw", self.matrix, x)
        return torch.tanh(mixed + math.sin(5 * level) + 0.1 * clip) + 0.3 * x

    def x0(self, x, level, clip):
        self.calls += 1
        return x - level * self.velocity(x, level, clip)


def sampler(model, clip, solver="unipc"):
    """Samples a clip of the stand-in with given steps."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(clip))

    def run(steps):
        steps.begin()

        def denoise(x, sigma):
            level = float(sigma[0])
            return steps.predict(x, level, lambda: model.x0(x, level, clip))

        return SOLVERS[solver].sample(denoise, noise, SIGMAS)

    return run


def sample_clips(cached, clips, model=None, solver="unipc", prompts=None):
    model = model or StandIn()
    return [cached.sample(clip, (prompts or {}).get(clip, 0), sampler(model, clip, solver)) for clip in clips]


def full_clips(clips, solver="unipc"):
    return [sampler(StandIn(), clip, solver)(Steps(SIGMAS)) for clip in clips]


def relative_error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


def test_full_steps_change_nothing():
    model, clip = StandIn(), 3
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(clip))
    plain = SOLVERS["unipc"].sample(lambda x, sigma: model.x0(x, float(sigma[0]), clip), noise, SIGMAS)
    assert torch.equal(sampler(model, clip)(Steps(SIGMAS, learns=True)), plain)


def test_guessed_steps_ask_nobody_and_go_on_with_the_last_velocity():
    steps = Steps(torch.tensor([1.0, 0.8, 0.4, 0.0]), guessed=(1,))
    x, asked = torch.full((1, 1), 3.0), []

    def predict(level, x0):
        return steps.predict(x, level, lambda: asked.append(level) or torch.full((1, 1), x0))

    assert predict(1.0, 1.0) == 1.0
    assert predict(0.8, 9.0) == pytest.approx(3.0 - 0.8 * 2.0)
    assert predict(float(torch.tensor(0.4)), 2.0) == 2.0
    assert asked == [1.0, pytest.approx(0.4)]
    assert steps.is_regular


@pytest.mark.parametrize("levels", [(1.0, 0.8, 0.8, 0.4), (1.0, 0.8), (1.0, 0.9, 0.4)])
def test_samplers_that_ask_at_other_levels_are_noticed_and_nothing_is_guessed_from_there_on(levels):
    steps, asked = Steps(torch.tensor([1.0, 0.8, 0.4, 0.0]), guessed=(2,)), []
    for level in levels:
        steps.predict(torch.ones(1), level, lambda level=level: asked.append(level) or torch.zeros(1))
    assert not steps.is_regular
    assert asked == list(levels)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("allowed", [0.01, 0.03, 0.1])
def test_expected_error_is_near_the_true_one(solver, allowed):
    model, steps = StandIn(), Steps(SIGMAS, learns=True)
    exact = sampler(model, 0, solver)(steps)
    errors = Errors(steps.samples, thinned(exact), SIGMAS)
    chosen = errors.choose(allowed)
    assert chosen
    assert 0 not in chosen
    assert errors.of(chosen) <= allowed
    true = relative_error(sampler(model, 0, solver)(Steps(SIGMAS, chosen)), exact)
    assert 0.5 * errors.of(chosen) < true < 2 * errors.of(chosen)


def test_nothing_is_guessed_where_no_error_is_allowed():
    cached, model = CachedClips(StepCache(0.0, 8), SIGMAS), StandIn()
    clips = sample_clips(cached, range(3), model)
    assert model.calls == 3 * STEPS
    assert all(map(torch.equal, clips, full_clips(range(3))))


def test_nothing_is_guessed_where_comparing_costs_more_than_it_saves():
    for check_every, is_worth_it in ((2, False), (40, True)):
        cached, model = CachedClips(StepCache(0.002, check_every), SIGMAS), StandIn()
        sample_clips(cached, range(3), model)
        assert (model.calls < 3 * STEPS) == is_worth_it
        assert bool(cached.notes[0]["guessed"]) == is_worth_it


class Rough(StandIn):
    """Each velocity differs from the one before it by 0.4 of itself, as with random weights."""

    def velocity(self, x, level, clip):
        generator = torch.Generator().manual_seed(round(1e4 * level) + 10_000 * clip)
        return super().velocity(x, level, clip) + 0.2 * torch.randn(SHAPE, generator=generator)


def calls_of_clips(cached, clips, model=StandIn):
    calls = []
    for clip in clips:
        counting = model()
        sample_clips(cached, [clip], counting)
        calls.append(counting.calls)
    return calls


def test_first_clip_is_full_later_ones_take_few_calls_and_the_fourth_is_compared():
    cached = CachedClips(StepCache(0.05, 4), SIGMAS)
    calls = calls_of_clips(cached, range(6))
    asked = [STEPS - len(note["guessed"]) for note in cached.notes]
    assert calls == [STEPS, *[asked[0]] * 3, asked[0] + STEPS, asked[1]]
    assert STEPS / calls[1] >= 1.6
    assert [note["clip"] for note in cached.notes] == [0, 4]


def test_while_the_error_is_as_expected_comparisons_come_twice_and_four_times_as_late():
    cached = CachedClips(StepCache(0.05, 2), SIGMAS)
    sample_clips(cached, range(23))
    assert [note["clip"] for note in cached.notes] == [0, 2, 6, 14, 22]


@pytest.mark.parametrize(("wrong", "next_one"), [(1, 4), (2, 8)])
def test_an_error_that_was_not_expected_brings_the_next_comparison_as_early_as_the_first(wrong, next_one):
    """The comparisons come behind 2 and 4 clips."""
    cached = CachedClips(StepCache(0.05, 2), SIGMAS)
    sample_clips(cached, range(7))
    del cached.notes[wrong + 1 :]
    cached.notes[wrong]["error"] = 2 * cached.notes[wrong - 1]["expected"]
    sample_clips(cached, range(cached.notes[wrong]["clip"] + 1, 12))
    assert cached.notes[wrong + 1]["clip"] == next_one


@pytest.mark.parametrize("check_every", [4, 8])
def test_a_run_of_nine_rough_clips_takes_less_than_a_1_6th_of_the_calls_and_states_its_true_errors(check_every):
    cached = CachedClips(StepCache(0.05, check_every), SIGMAS)
    calls = calls_of_clips(cached, range(9), Rough)
    assert 15 < STEPS - calls[1] < 32
    assert 9 * STEPS / sum(calls) >= 1.6
    first, second = cached.notes
    guessed, exact = (sampler(Rough(), second["clip"])(Steps(SIGMAS, steps)) for steps in (first["guessed"], ()))
    assert second["error"] == relative_error(guessed, exact)


def test_a_long_run_takes_less_than_a_1_6th_of_the_calls():
    model = StandIn()
    sample_clips(CachedClips(StepCache(0.05, 8), SIGMAS), range(24), model)
    assert 24 * STEPS / model.calls >= 1.6


def test_stated_error_is_that_against_the_full_clip_on_the_same_inputs():
    cached = CachedClips(StepCache(0.05, 3), SIGMAS)
    clips, exact = sample_clips(cached, range(4)), full_clips(range(4))
    guessed = sampler(StandIn(), 3)(Steps(SIGMAS, cached.notes[0]["guessed"]))
    assert cached.notes[0]["error"] is None
    assert cached.notes[1]["error"] == relative_error(guessed, exact[3])
    assert [torch.equal(*pair) for pair in zip(clips, exact, strict=True)] == [True, False, False, True]


def test_table_keeps_to_the_error_that_was_measured():
    """A model that answers strongly to wrong latents makes more of them than the velocities say."""

    class Sensitive(StandIn):
        def velocity(self, x, level, clip):
            return torch.tanh(6 * torch.einsum("ij,bjfhw->bifhw", self.matrix, x) + math.sin(5 * level))

    cached, model = CachedClips(StepCache(0.05, 2), SIGMAS), Sensitive()
    sample_clips(cached, range(9), model)
    first, *later = [note["error"] for note in cached.notes[1:]]
    assert first > 0.05
    assert all(error < first for error in later)
    assert len(cached.notes[1]["guessed"]) < len(cached.notes[0]["guessed"])


def test_run_that_goes_on_gives_the_same_bytes():
    settings, whole = StepCache(0.05, 4), CachedClips(StepCache(0.05, 4), SIGMAS)
    expected = sample_clips(whole, range(10))
    for cut in (1, 4, 5, 7):
        kept = CachedClips(settings, SIGMAS)
        sample_clips(kept, range(cut))
        stored = json.loads(json.dumps([note for note in kept.notes if note["clip"] < cut]))
        resumed = CachedClips(settings, SIGMAS, stored)
        assert all(map(torch.equal, sample_clips(resumed, range(cut, 10)), expected[cut:]))
        assert json.dumps(resumed.notes) == json.dumps(whole.notes)


def test_each_prompt_has_a_table_of_its_own():
    cached, calls = CachedClips(StepCache(0.05, 100), SIGMAS), []
    prompts = {2: 2, 3: 2}
    for clip in range(4):
        model = StandIn()
        sample_clips(cached, [clip], model, prompts=prompts)
        calls.append(model.calls)
    assert [taken == STEPS for taken in calls] == [True, False, True, False]


def test_table_of_other_inputs_or_steps_does_not_count():
    taught = CachedClips(StepCache(0.05, 100), SIGMAS)
    sample_clips(taught, [0])
    for change in ({"prompt": None}, {"steps": STEPS - 1}):
        model = StandIn()
        cached = CachedClips(StepCache(0.05, 100), SIGMAS, [{**taught.notes[0], **change}])
        sample_clips(cached, [1], model)
        assert model.calls == STEPS


def test_sampler_with_several_calls_in_a_step_is_left_alone(caplog):
    def heun(steps):
        steps.begin()
        for level in map(float, SIGMAS[:-1]):
            for _ in range(2):
                steps.predict(torch.ones(1), level, lambda: asked.append(1) or torch.zeros(1))
        return torch.ones(1)

    asked, cached = [], CachedClips(StepCache(0.5, 2), SIGMAS)
    for clip in range(5):
        cached.sample(clip, 0, heun)
    assert len(asked) == 5 * 2 * STEPS
    assert cached.notes == []
    assert caplog.text.count("does not ask the model once in each step") == 1


def test_clip_that_is_sampled_again_from_its_start_begins_with_step_0():
    steps = Steps(SIGMAS, learns=True)
    run = sampler(StandIn(), 0)
    assert torch.equal(run(steps), run(steps))
    assert len(steps.samples) == STEPS
    assert steps.is_regular


def test_sample_of_a_large_prediction_is_small_and_takes_all_columns():
    x = torch.arange(16 * 20 * 60 * 104.0).reshape(1, 16, 20, 60, 104)
    values = thinned(x)
    assert SAMPLED / 2 < len(values) <= SAMPLED * 1.1
    assert len({int(value) % 104 for value in values}) == 104


def test_summary():
    cached = CachedClips(StepCache(0.05, 2), SIGMAS)
    sample_clips(cached, range(2))
    assert cached.summary().endswith("error not measured yet")
    sample_clips(cached, [2])
    guessed = len(cached.notes[0]["guessed"])
    assert cached.summary() == f"step cache: {2 * guessed} of 160 steps guessed, error {cached.notes[1]['error']:.1%} in clip 3"
