"""Half a minute of speech on a card."""

import pytest
from wan_s2v_pack.cli.models.files import by_name
from wan_s2v_pack.cli.predict.graph import FAST, SAMPLER, inputs_of, quick_start
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS, calculated_rates
from wan_s2v_pack.wan_s2v_model.cost.outlook import (
    DRAFT,
    REFERENCE,
    SMALL_MODEL_BYTES,
    SPEECH_S,
    WAYS,
    half_minute,
    half_minute_on,
    timeline_of,
)

H100 = next(card for card in CARDS if card.name == "H100")


def test_half_a_minute_is_six_clips():
    assert timeline_of(SPEECH_S).num_clips == 6
    assert timeline_of(SPEECH_S).seconds == pytest.approx(30, abs=0.2)
    assert timeline_of(SPEECH_S + 0.1).num_clips == 7


def test_reference_on_an_h100_is_six_of_the_clips_that_were_measured():
    assert half_minute_on(H100)[REFERENCE].seconds == pytest.approx(6 * 232.8, rel=0.05)


def test_model_file_has_its_published_size():
    assert by_name("wan2.2_s2v_14B_fp8_scaled.safetensors").gigabytes * 1e9 == pytest.approx(SMALL_MODEL_BYTES)


def test_ways_are_those_of_the_command_line():
    reference = inputs_of(quick_start(), SAMPLER)
    settings = {DRAFT: reference | FAST, REFERENCE: reference}
    assert {way: (inputs["steps"], 2 if inputs["cfg"] > 1 else 1) for way, inputs in settings.items()} == {
        way: (way.steps, way.model_calls) for way in WAYS
    }


def test_least_memory_is_that_of_small_cards():
    """8 GB sufficed with a ballast; docs/performance.md"""
    assert all(half_minute(way, calculated_rates(H100)).least_device_bytes < 8e9 for way in WAYS)
