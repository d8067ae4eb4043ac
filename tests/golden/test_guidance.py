"""Guidance by prompt and sound apart, strength of the sound, and prompts over time: the numbers, and the model calls they take."""

import itertools
import math

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import (
    NEGATIVE,
    POSITIVE,
    STEPS,
    clip_sampler,
    conditions_of_steps,
    randn,
    sample_clip,
    watched,
    with_cache,
)
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

SILENT = 2  # in cond_or_uncond
ONE_STEP = {"steps": 1, "solver": "euler"}  # its result is the prediction
SINGLE = 1e-6  # float32, on latents of about 1


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


def audio(cfg, start=0.0, end=1.0, strength=1.0):
    return pack_module("wan_s2v_model.sampling.guidance").AudioGuidance(cfg, start, end, strength)


def clip(bridge, model, **settings):
    return sample_clip(clip_sampler(bridge, model, **settings))


@pytest.fixture
def predictions(bridge, model):
    """Samples a clip in one step; returns the guided prediction and those of the prompt, the negative prompt, and the prompt in silence."""
    import comfy.samplers

    def guide(cfg, audio_cfg):
        predicted, guided = [], []

        def predict(args):
            predicted.extend(
                comfy.samplers.calc_cond_batch(*(args[name] for name in ("model", "conds", "input", "sigma", "model_options")))
            )
            return predicted

        patched = model.clone()
        patched.model_options["sampler_calc_cond_batch_function"] = predict
        patched.set_model_sampler_post_cfg_function(lambda args: guided.append(args["denoised"]) or args["denoised"])
        clip(bridge, patched, cfg=cfg, audio=audio(audio_cfg), **ONE_STEP)
        return *guided, *predicted

    return guide


def test_the_three_predictions_are_what_they_are_called(bridge, model, predictions):
    _, heard, negative, silent = predictions(4.5, 6.0)
    sampler = clip_sampler(bridge, model, cfg=1.0, audio=audio(1.0, strength=0.0), **ONE_STEP)
    alone = [clip(bridge, model, cfg=1.0, **ONE_STEP), sample_clip(sampler)]
    sampler.conditions = sampler.conditions[::-1]
    alone.append(sample_clip(sampler))
    for prediction, expected in zip((heard, silent, negative), alone, strict=True):
        torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-4)
    assert all((a - b).abs().max() > 0.01 for a, b in itertools.combinations(alone, 2))


@pytest.mark.parametrize(("cfg", "audio_cfg"), [(4.5, 6.0), (4.5, 1.0), (7.0, 3.0), (30.0, 1.0)])
def test_guidance_is_the_documented_sum(predictions, cfg, audio_cfg):
    guided, heard, negative, silent = (latents.double() for latents in predictions(cfg, audio_cfg))
    expected = negative + cfg * (silent - negative) + audio_cfg * (heard - silent)
    torch.testing.assert_close(guided, expected, rtol=0, atol=max(cfg, audio_cfg) * SINGLE)


def test_guidance_by_the_sound_alone(predictions):
    guided, heard, _, silent = (latents.double() for latents in predictions(1.0, 4.5))
    torch.testing.assert_close(guided, silent + 4.5 * (heard - silent), rtol=0, atol=4.5 * SINGLE)


@pytest.mark.parametrize("part", [(0.0, 1.0), (0.2, 0.6)])
@pytest.mark.parametrize("cfg", [4.5, 1.0])
def test_equal_scales_in_equal_steps_are_the_reference_at_its_cost(bridge, model, cfg, part):
    calls = []
    reference = clip(bridge, model, cfg=cfg, cfg_start=part[0], cfg_end=part[1])
    both = clip(bridge, watched(model, calls), cfg=cfg, cfg_start=part[0], cfg_end=part[1], audio=audio(cfg, *part))
    assert torch.equal(both, reference)
    assert sum(len(conditions) for conditions in conditions_of_steps(calls)) == STEPS + (cfg > 1) * round(STEPS * (part[1] - part[0]))


def test_three_calls_with_scales_that_are_all_but_equal_are_plain_guidance(predictions):
    guided, heard, negative, _ = predictions(4.5, math.nextafter(4.5, 5.0))
    torch.testing.assert_close(guided, negative + 4.5 * (heard - negative), rtol=0, atol=SINGLE)


P, N, S = POSITIVE, NEGATIVE, SILENT


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"cfg": 4.5, "audio": (6.0,)}, [[P, N, S]] * 5),
        ({"cfg": 1.0, "audio": (3.0,)}, [[P, S]] * 5),
        ({"cfg": 4.5, "audio": (1.0,)}, [[P, N, S]] * 5),
        ({"cfg": 4.5, "audio": (6.0, 0.2, 0.6)}, [[P, N, S]] * 5),
        ({"cfg": 4.5, "cfg_end": 0.6, "audio": (6.0, 0.0, 0.6)}, [[P, N, S]] * 3 + [[P]] * 2),
        ({"cfg": 4.5, "cfg_end": 0.6, "audio": (4.5,)}, [[P, N]] * 3 + [[P, S]] * 2),
        ({"cfg": 4.5, "cfg_end": 0.4, "audio": (4.5, 0.6, 1.0)}, [[P, N, S]] * 2 + [[P]] + [[P, S]] * 2),
    ],
)
def test_each_step_asks_only_what_counts(bridge, model, settings, asked):
    calls = []
    sampler = clip_sampler(bridge, watched(model, calls), **{**settings, "audio": audio(*settings["audio"])})
    assert torch.isfinite(sample_clip(sampler)).all()
    assert conditions_of_steps(calls) == asked
    assert sampler.calls_of_steps == [len(conditions) for conditions in asked]
    assert sampler.calls_per_step == sum(sampler.calls_of_steps) / STEPS
    assert sampler.num_conditionings == len({condition for conditions in asked for condition in conditions})


def test_every_choice_gives_another_clip(bridge, model):
    choices = ((4.5,), (6.0,), (6.0, 0.0, 0.6), (6.0, 0.4, 1.0), (4.5, 0.0, 1.0, 0.5), (4.5, 0.0, 1.0, 0.0), (4.5, 0.0, 1.0, 1.5))
    clips = [clip(bridge, model, audio=audio(*choice)) for choice in choices]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(clips, 2))


# The sound itself


def test_sound_of_strength_0_is_silence(bridge, model):
    """The guidance by the sound then has nothing to guide by."""
    silent = clip(bridge, model, audio=audio(4.5, strength=0.0))
    assert torch.equal(clip(bridge, model, audio=audio(4.5, strength=0.0)), silent)
    torch.testing.assert_close(clip(bridge, model, audio=audio(9.0, strength=0.0)), silent, rtol=0, atol=1e-4)


def test_sound_grows_with_its_strength(bridge, model):
    silent, *clips = (clip(bridge, model, cfg=1.0, audio=audio(1.0, strength=strength)) for strength in (0.0, 0.25, 0.5, 0.75, 1.0))
    distances = [float((heard - silent).abs().mean()) for heard in clips]
    assert distances == sorted(distances)
    assert distances[0] > 0.02 * distances[-1]


# Other nodes


def test_nodes_that_change_the_guidance_see_the_prompts_as_ever(bridge, model):
    """What is handed to them is the positive prediction with its sound weighed, and the negative one."""
    seen = []

    def note(args):
        seen.append(args)
        return args["denoised"]

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(note)
    guided = clip(bridge, patched, cfg=4.5, audio=audio(6.0), **ONE_STEP)
    (args,) = seen
    assert args["cond_scale"] == 4.5
    again = args["uncond_denoised"] + 4.5 * (args["cond_denoised"] - args["uncond_denoised"])
    torch.testing.assert_close(args["denoised"], again)
    torch.testing.assert_close(clip(bridge, model, cfg=4.5, audio=audio(6.0), **ONE_STEP), guided, rtol=0, atol=0)


def test_a_node_that_predicts_in_its_own_way_is_asked_for_all_three(bridge, model):
    import comfy.samplers

    asked = []

    def predict(args):
        asked.append(len(args["conds"]))
        return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

    patched = model.clone()
    patched.model_options["sampler_calc_cond_batch_function"] = predict
    clip(bridge, patched, audio=audio(6.0, 0.0, 0.4), cfg_end=0.4)
    assert asked == [3, 3, 2, 2, 2]


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_caches_skip_all_three_calls(bridge, model, name):
    calls = []
    assert torch.isfinite(clip(bridge, watched(with_cache(name, model), calls), steps=10, audio=audio(6.0))).all()
    steps = conditions_of_steps(calls)
    assert 0 < len(steps) < 10
    assert steps == [[P, N, S]] * len(steps)


# Prompts over time


@pytest.fixture(scope="module")
def prompts():
    module = pack_module("wan_s2v_model.conditioning.prompts")
    timeline = pack_module("wan_s2v_model.conditioning.timeline").plan_timeline(3 * 80_000, 16_000, 3 * 80_000)
    texts = [[[randn(seed, 9, 64), {}]] for seed in (4, 14)]

    def scheduled(blend_clips=0):
        starts = [module.ScheduledPrompt(str(start), start, blend_clips=blend_clips) for start in (0.0, 5.0)]
        entries = [[text[0][0], {module.PROMPT_KEY: start}] for text, start in zip(texts, starts, strict=True)]
        return module.place_on_clips(entries, timeline)

    return texts, scheduled


def with_prompt(bridge, model, prompt, clip_number, **settings):
    sampler = clip_sampler(bridge, model, **settings)
    sampler.conditions = prompt, sampler.conditions[1]
    assert sampler.calls_per_step == clip_sampler(bridge, model, **settings).calls_per_step
    return sample_clip(sampler, clip_number)


def test_each_clip_is_that_of_its_own_prompt(bridge, model, prompts):
    texts, scheduled = prompts
    for number, text in ((0, texts[0]), (1, texts[1]), (2, texts[1])):
        plain = with_prompt(bridge, model, text, number, audio=audio(6.0))
        assert torch.equal(with_prompt(bridge, model, scheduled(), number, audio=audio(6.0)), plain)


def test_blended_clip_lies_between_its_prompts(bridge, model, prompts):
    texts, scheduled = prompts
    mean = [[(texts[0][0][0] + texts[1][0][0]) / 2, {}]]
    expected = with_prompt(bridge, model, mean, 1)
    torch.testing.assert_close(with_prompt(bridge, model, scheduled(blend_clips=1), 1), expected, rtol=0, atol=1e-4)
    assert torch.equal(with_prompt(bridge, model, scheduled(blend_clips=1), 2), with_prompt(bridge, model, texts[1], 2))
