"""The calculated speed of common cards: against one H100 that was measured, and against public figures of others."""

from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS, DATA_CENTRE, Modes, calculated_rates, find_card, host_rates, measured_rates
from wan_s2v_pack.wan_s2v_model.cost.estimate import Job, ModelFacts, estimate
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B

BF16 = ModelFacts(S2V_14B, weights_bytes=32.59e9, value_bytes=2, residual_bytes=4)
BY_NAME = {card.name: card for card in CARDS}
SAMPLES = 157_000  # two clips


def seconds(name, steps, *, height=480, width=832, clips=2, vae_value_bytes=4):
    """Of the clips behind the first one."""
    timeline = replace(plan_timeline(SAMPLES, 16_000, SAMPLES), num_clips=clips)
    job = Job(timeline, height, width, steps=steps, model_calls=1, first_clip=1, vae_value_bytes=vae_value_bytes)
    return estimate(job, BF16, calculated_rates(BY_NAME[name], Modes(vae_value_bytes))).seconds


def call(name, **size):
    return seconds(name, 1, **size) - seconds(name, 0, **size)


@pytest.mark.parametrize(("size", "measured"), [({}, 2.74), ({"height": 704, "width": 1024}, 7.16)])
def test_model_call_on_an_h100_is_the_measured_one(size, measured):
    """docs/performance.md"""
    assert call("H100", **size) == pytest.approx(measured, rel=0.06)


@pytest.mark.parametrize(("value_bytes", "measured"), [(4, 6.25), (2, 3.86)])
def test_decoding_on_an_h100_is_the_measured_one(value_bytes, measured):
    assert seconds("H100", 0, vae_value_bytes=value_bytes) == pytest.approx(measured, rel=0.06)


def test_h200_is_the_measured_one():
    assert call("H200") == pytest.approx(2.769, rel=0.03)


@pytest.mark.parametrize(("name", "minutes"), [("RTX 3090", 40), ("RTX 4090", 17), ("RTX 5090", 13)])
def test_clip_of_40_steps_with_guidance_is_the_one_predicted_from_public_kernel_figures(name, minutes):
    vae = seconds(name, 0, clips=3) - seconds(name, 0)
    assert (80 * call(name) + vae) / 60 == pytest.approx(minutes, rel=0.06)


def test_more_of_everything_is_faster():
    by_speed = sorted(CARDS, key=lambda card: call(card.name))
    for slower, faster in (("RTX 3060", "RTX 4060 Ti"), ("RTX 4090", "RTX 5090"), ("RTX 3080", "RTX 3090"), ("L40S", "H100")):
        assert by_speed.index(BY_NAME[faster]) < by_speed.index(BY_NAME[slower])


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_facts_hang_together(card):
    assert card.fp8 == 0 or card.fp8 == pytest.approx(2 * card.bf16, rel=0.02)
    assert card.int8 == pytest.approx((2 if card.reached is DATA_CENTRE else 4) * card.bf16, rel=0.02)
    assert calculated_rates(card).linear < card.bf16
    assert calculated_rates(card).vae < calculated_rates(card, Modes(2)).vae < calculated_rates(card).linear


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 PCIe", None),
        ("cpu", None),
        ("", None),
    ],
)
def test_card_is_found_by_its_whole_name(device, name):
    assert find_card(device) is (BY_NAME[name] if name else None)


FLOAT8 = Modes(float8_linears=True, float8_attention=True)


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "a card of tomorrow"])
def test_measured_product_gives_the_rates_that_were_measured_with_it(name):
    """On the H100 that docs/performance.md is about a large product in bf16 reached 784 TFLOP/s."""
    exact, float8 = measured_rates(name, 784e12), measured_rates(name, 784e12, FLOAT8)
    assert exact.linear == pytest.approx(0.84 * 784e12, rel=0.01)
    assert exact.attention == pytest.approx(0.85 * 784e12, rel=0.01)
    assert exact.vae == pytest.approx(0.104 * 784e12, rel=0.01)
    assert measured_rates(name, 784e12, Modes(2)).vae == pytest.approx(0.165 * 784e12, rel=0.01)
    assert float8.linear == pytest.approx(1.38 * 784e12, rel=0.01)
    assert float8.attention == pytest.approx(1.18 * 784e12, rel=0.01)


def test_measured_product_counts_more_than_what_is_stated():
    """Of a card that is kept cool or slow by its owner; before, a GeForce card was taken for an H100, a fifth too slow in attention."""
    card = BY_NAME["RTX 3090"]
    full, half = (measured_rates(card.devices[0], share * 0.93 * card.bf16) for share in (1, 0.5))
    assert full == calculated_rates(card)
    assert half.attention == full.attention / 2
    assert 0.5 < half.vae / full.vae < 0.6  # its memory is as fast as ever


def test_unknown_card_is_slower_in_everything():
    full, half = (measured_rates("unknown", rate) for rate in (784e12, 392e12))
    assert [getattr(half, name) / getattr(full, name) for name in ("linear", "attention", "vae")] == pytest.approx([0.5] * 3)


def test_processor():
    rates = host_rates(1e12)
    assert (rates.linear, rates.attention, rates.vae) == (0.84e12, 0.85e12, 0.4e12)


def test_no_name_twice():
    devices = [device for card in CARDS for device in card.devices]
    assert len(devices) == len(set(devices))
    assert len(BY_NAME) == len(CARDS)
