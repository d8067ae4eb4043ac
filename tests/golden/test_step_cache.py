"""The step cache through ComfyUI's guider: model calls, guidance, the stated error, and that a run goes on with the same bytes."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler, sample_clip, watched
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

STEPS = 12
GUIDED_CALLS = 2  # one for each prompt


@pytest.fixture(autouse=True)
def _inference(bridge):
    with torch.inference_mode():
        yield


def cache(allowed_error=0.1, check_every=2):
    return pack_module("wan_s2v_model.sampling.step_cache").StepCache(allowed_error, check_every)


def clips(bridge, model, count, **settings):
    """The sampler behind some clips, their latents, and the conditionings that each clip asked."""
    calls, latents, asked = [], [], []
    sampler = clip_sampler(bridge, watched(model, calls), steps=STEPS, **settings)
    for clip in range(count):
        calls.clear()
        latents.append(sample_clip(sampler, clip))
        asked.append(sum(len(conditionings) for _, conditionings in calls))
    return sampler, latents, asked


@pytest.fixture(scope="module")
def full(bridge, model):
    """Clips without a cache."""
    with torch.inference_mode():
        return clips(bridge, model, 4)[1]


def error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


def test_first_clip_is_as_without_a_cache_and_later_ones_skip_all_calls_of_a_step(bridge, model, full):
    sampler, latents, asked = clips(bridge, model, 2, step_cache=cache())
    guessed = len(sampler.cached.notes[0]["guessed"])
    assert torch.equal(latents[0], full[0])
    assert asked == [GUIDED_CALLS * STEPS, GUIDED_CALLS * (STEPS - guessed)]
    assert asked[0] / asked[1] >= 1.6
    assert 0 < error(latents[1], full[1]) < 0.2


def test_stated_error_is_the_true_one(bridge, model, full):
    sampler, latents, asked = clips(bridge, model, 4, step_cache=cache(check_every=2))
    first = sampler.cached.notes[0]
    guessed = pack_module("wan_s2v_model.sampling.step_cache").Steps(sampler.sigmas, first["guessed"])
    once_more = clip_sampler(bridge, model, steps=STEPS)
    sample = once_more._sample
    once_more._sample = lambda clip, conditioning, noise, steps: sample(clip, conditioning, noise, guessed)
    assert torch.equal(latents[2], full[2])
    assert sampler.cached.notes[1]["error"] == pytest.approx(error(sample_clip(once_more, 2), full[2]), rel=1e-4)
    assert asked[2] == GUIDED_CALLS * (2 * STEPS - len(first["guessed"]))


def test_no_allowed_error_is_bit_identical(bridge, model, full):
    assert all(map(torch.equal, clips(bridge, model, 3, step_cache=cache(allowed_error=0.0))[1], full))


@pytest.mark.parametrize("load", [load_ours, load_native])
def test_guidance_by_the_sound_and_on_a_part_of_the_steps(bridge, checkpoint, load):
    guidance = pack_module("wan_s2v_model.sampling.guidance").AudioGuidance(6.0, 0.0, 0.5)
    settings = {"audio": guidance, "cfg_end": 0.75}
    model = load(bridge, checkpoint)
    sampler, latents, asked = clips(bridge, model, 2, step_cache=cache(), **settings)
    exact = clips(bridge, model, 2, **settings)[1]
    guessed, calls = sampler.cached.notes[0]["guessed"], sampler.calls_of_steps
    assert asked == [sum(calls), sum(number for step, number in enumerate(calls) if step not in guessed)]
    assert torch.equal(latents[0], exact[0])
    assert 0 < error(latents[1], exact[1]) < 0.3


@pytest.mark.parametrize("solver", ["dpm++", "euler"])
def test_other_solvers(bridge, model, solver):
    _, latents, asked = clips(bridge, model, 2, solver=solver, step_cache=cache())
    assert asked[1] < asked[0] == GUIDED_CALLS * STEPS
    assert 0 < error(latents[1], clips(bridge, model, 2, solver=solver)[1][1]) < 0.2


def test_solver_with_two_calls_in_a_step_is_left_alone(bridge, model):
    sampler, latents, _ = clips(bridge, model, 2, solver="heun", step_cache=cache())
    assert sampler.cached.notes == []
    assert all(map(torch.equal, latents, clips(bridge, model, 2, solver="heun")[1]))


def test_clip_that_begins_again_for_want_of_memory(bridge, model, full, monkeypatch):
    """The second try learns as the first one would have."""
    import comfy.model_management

    failures = iter([True])
    sampler = clip_sampler(bridge, model, steps=STEPS, step_cache=cache())

    def fail_once(done, x0):
        if done == 5 and next(failures, False):
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    sampler.on_step = fail_once
    assert torch.equal(sample_clip(sampler), full[0])
    assert sampler.cached.notes == clips(bridge, model, 1, step_cache=cache())[0].cached.notes
