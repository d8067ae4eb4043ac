"""Scales of prompt and sound by step, and the model calls they take."""

import math

import pytest
from wan_s2v_pack.wan_s2v_model.sampling.guidance import AudioGuidance, Scale, audio_scale, model_calls
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule

SIGMAS = build_schedule("euler", 10, 3.0).sigmas
ALWAYS = 4.5, 0.0, 1.0


def scale(value, start, end):
    return Scale.between(value, start, end, SIGMAS)


@pytest.mark.parametrize(
    ("start", "end", "steps"), [(0.0, 1.0, range(10)), (0.2, 0.6, range(2, 6)), (0.0, 0.04, range(1)), (0.97, 1.0, range(9, 10))]
)
def test_scale_holds_in_its_part_of_the_steps_and_is_1_elsewhere(start, end, steps):
    part = scale(4.5, start, end)
    expected = [4.5 if step in steps else 1.0 for step in range(10)]
    assert [part.in_step(step) for step in range(10)] == expected
    assert [part.at(float(sigma)) for sigma in SIGMAS[:-1]] == expected


@pytest.mark.parametrize(
    ("part", "is_constant"), [((4.5, 0.0, 1.0), True), ((1.0, 0.2, 0.6), True), ((4.5, 0.0, 0.6), False), ((4.5, 0.2, 1.0), False)]
)
def test_scale_that_needs_no_level_is_the_same_at_all(part, is_constant):
    found = scale(*part)
    assert found.is_constant == is_constant
    assert (len({found.at(level) for level in (0.001, *map(float, SIGMAS[:-1]))}) == 1) == is_constant


def test_level_inside_of_a_step_belongs_to_the_step():
    part = scale(4.5, 0.0, 0.3)
    inside = [float(SIGMAS[step] + SIGMAS[step + 1]) / 2 for step in range(10)]
    assert [part.at(level) for level in inside] == [4.5] * 3 + [1.0] * 7


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_scales_up_to_1_are_no_guidance_as_in_the_reference(value):
    assert scale(value, 0.0, 1.0) == Scale(1.0, range(10), (-math.inf, math.inf))


def test_sound_follows_the_prompt_unless_it_has_settings_of_its_own():
    text = scale(4.5, 0.2, 0.6)
    assert audio_scale(None, text, SIGMAS) is text
    assert audio_scale(AudioGuidance(4.5, 0.2, 0.6), text, SIGMAS) == text
    assert audio_scale(AudioGuidance(6.0, 0.0, 0.5), text, SIGMAS) == scale(6.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("cfg", "audio_cfg", "calls", "calls_of_two_positives"),
    [(1.0, 1.0, 1, 2), (4.5, 4.5, 2, 3), (1.0, 4.5, 2, 4), (4.5, 1.0, 3, 5), (4.5, 6.0, 3, 5)],
)
def test_model_calls(cfg, audio_cfg, calls, calls_of_two_positives):
    assert model_calls(cfg, audio_cfg) == calls
    assert model_calls(cfg, audio_cfg, num_positive=2) == calls_of_two_positives


def test_silence_is_asked_only_where_the_scales_differ():
    text, audio = scale(*ALWAYS), scale(4.5, 0.0, 0.4)
    assert [model_calls(text.in_step(step), audio.in_step(step)) for step in range(10)] == [2] * 4 + [3] * 6
