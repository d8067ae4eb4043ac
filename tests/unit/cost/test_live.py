"""What a live video is said to cost, and where its rings go."""

import logging
from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.cost.estimate import Rates
from wan_s2v_pack.wan_s2v_model.cost.live import LiveWork, choose_placement, describe_live_plan, describe_live_shape, live_cost
from wan_s2v_pack.wan_s2v_model.cost.outlook import loaded_model
from wan_s2v_pack.wan_s2v_model.cost.requirements import TRY_ANYWAY, DeviceFacts
from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement

GB = 1e9
BF16, FP8 = loaded_model(32.6 * GB), loaded_model(16.4 * GB)
RATES = Rates(600e12, 600e12, 20e12)
WORK = LiveWork(384, 704, steps=4, blocks=128)


MINUTE = plan_timeline(60 * 16_000, 16_000, 60 * 16_000, frames_per_clip=48, fps=25)


def device(free_gb, host_gb=100.0, **changes):
    return replace(DeviceFacts("a card", free_gb * GB, host_gb * GB, RATES), **changes)


def test_rings_are_as_large_as_specified():
    """Four rings at 704x384 in bf16: 41.5 GB, and a sink for each."""
    on_gpu, on_host = (live_cost(WORK, Placement(False, host), BF16, device(141)) for host in (False, True))
    assert on_host.host_bytes == pytest.approx(41.5 * GB, rel=0.01)
    assert on_gpu.least_bytes - on_host.least_bytes == pytest.approx((41.5 + 3 * 2.2 - 0.7) * GB, rel=0.05)
    half = live_cost(replace(WORK, float8=True), Placement(True, True), BF16, device(141))
    assert half.host_bytes == on_host.host_bytes / 2
    three = live_cost(replace(WORK, steps=3), Placement(False, True), BF16, device(141))
    assert three.host_bytes == on_host.host_bytes * 3 / 4


def test_time_of_a_block_is_that_of_its_arithmetic():
    """0.2 s per forward at 704x384 and 600 TFLOP/s, as the specification computes; four of them, and the decoder."""
    assert live_cost(WORK, Placement(), BF16, device(141)).block_s == pytest.approx(4 * 0.201 + 0.19 * 7, rel=0.4)
    quick_vae = device(141, rates=Rates(600e12, 600e12, 1e18))
    assert live_cost(replace(WORK, steps=3), Placement(), BF16, quick_vae).block_s == pytest.approx(3 * 0.201, rel=0.1)


def test_blocks_that_are_played_back_count_without_their_decoding(caplog):
    cost = live_cost(WORK, Placement(), BF16, device(141))
    assert cost.playback_s == pytest.approx(4 * 0.201, rel=0.1)
    assert cost.playback_s < cost.block_s
    words = [describe_live_shape(MINUTE, work, BF16, device(141)) for work in (WORK, replace(WORK, played_back=10_000))]
    assert words[0] != words[1]
    lines = describe_live_plan(MINUTE, replace(WORK, played_back=8), BF16, device(141))
    assert lines[1] == "live: 128 blocks of 4 steps and 8 played back"
    assert lines[-1].endswith("as it comes, with a run_name")


@pytest.mark.parametrize(("dealt", "passes", "decodes"), [((2, 2), 2, 1), ((1, 1, 2), 2, 0), ((1, 1, 1, 1), 1, 1), ((0, 1, 1, 1, 1), 1, 0)])
def test_several_gpus_take_the_time_of_the_one_with_the_most_to_do(dealt, passes, decodes):
    card = device(141, rates=Rates(600e12, 600e12, 1e15))  # a decoder that takes less than a step
    one = live_cost(WORK, Placement(), BF16, card)
    found, decode_s = live_cost(replace(WORK, dealt=dealt), Placement(), BF16, card), one.block_s - one.playback_s
    assert found.block_s == pytest.approx(passes * one.playback_s / 4 + decodes * decode_s)
    assert found.least_bytes < one.least_bytes
    assert found.host_bytes == one.host_bytes == 0
    on_host = live_cost(replace(WORK, dealt=dealt), Placement(on_host=True), BF16, card)
    assert on_host.host_bytes == live_cost(WORK, Placement(on_host=True), BF16, card).host_bytes


@pytest.mark.parametrize(
    ("model", "free_gb", "float8", "expected"),
    [
        (BF16, 141, False, Placement()),
        (BF16, 80, False, Placement()),
        (BF16, 48, False, Placement(on_host=True)),
        (FP8, 80, False, Placement()),
        (BF16, 80, True, Placement(float8=True)),
        (FP8, 48, True, Placement(float8=True)),
        (BF16, 77, False, Placement()),  # a step fetches 3 GB of weights, or 10 GB of rings
        (BF16, 60, False, Placement(on_host=True)),  # 20 GB of weights, or the rings
        (BF16, 24, False, Placement(on_host=True)),
        (FP8, 16, False, Placement(on_host=True)),
    ],
)
def test_place_of_the_rings(model, free_gb, float8, expected):
    assert choose_placement(replace(WORK, float8=float8), model, device(free_gb)) == expected


@pytest.mark.parametrize(
    ("model", "free_gb", "float8", "measured"), [(BF16, 42, False, 9.03), (BF16, 15.2, False, 5.05), (FP8, 9.9, True, 5.83)]
)
def test_fetching_is_in_the_time(model, free_gb, float8, measured):
    """Frames per second that a H200 reached with so much memory, by PCIe 5.0; what is said is for 4.0, and no dream."""
    rates = Rates(700e12, 700e12, 130e12)
    cost = live_cost(replace(WORK, float8=float8), Placement(float8, on_host=True), model, device(free_gb, rates=rates))
    assert measured / 2 < 12 / cost.block_s < 1.1 * measured


def test_weights_that_stay_are_not_fetched():
    resident = replace(BF16, is_resident=True)
    assert live_cost(WORK, Placement(), resident, device(77)).fetched_bytes == 0
    assert live_cost(WORK, Placement(), BF16, device(77)).fetched_bytes == pytest.approx(3 * GB, rel=0.3)
    lines = describe_live_plan(MINUTE, WORK, BF16, device(77))
    assert any("a step fetches " in line for line in lines)


def test_on_the_cpu_there_is_one_place():
    assert choose_placement(WORK, BF16, device(200, is_host=True)) == Placement()


def test_what_fits_nowhere_is_refused_with_advice(monkeypatch, caplog):
    monkeypatch.delenv(TRY_ANYWAY, raising=False)
    with pytest.raises(ValueError, match=r"A live video of 704x384 needs at least .* What helps, best first: memory float8; a size of"):
        choose_placement(WORK, BF16, device(16, host_gb=8))
    monkeypatch.setenv(TRY_ANYWAY, "1")
    with caplog.at_level(logging.WARNING):
        assert choose_placement(WORK, BF16, device(16, host_gb=8)).on_host
    assert "It is tried all the same" in caplog.text


def test_the_preview_of_a_live_plan_is_reckoned_as_live_video():
    """A minute in the size of the template, on a card that makes it in less than a minute."""
    timeline = MINUTE
    lines = describe_live_plan(timeline, WORK, FP8, device(141))
    assert lines[:2] == ["704 x 384   1500 frames   60.00 s   32 clips of 48", "live: 128 blocks of 4 steps"]
    assert lines[2].startswith("time: about ")
    assert lines[2].endswith("of 25 frames per second")
    assert "rings in full precision" in lines
    assert not any("40 steps" in line for line in lines)
    assert describe_live_shape(timeline, WORK, FP8, device(141)) == f"704x384, 32 clips, 60.00 s\n{lines[2].removeprefix('time: ')}"
    small = describe_live_plan(timeline, WORK, BF16, device(16, host_gb=8))
    assert small[-1] == "too large: memory float8 would help"


def test_the_log_says_what_it_takes(caplog):
    with caplog.at_level(logging.INFO):
        choose_placement(WORK, FP8, device(24))
    assert "live video of 704x384, 128 blocks of 4 steps" in caplog.text
    assert "rings in full precision in main memory: 42 GB of 100 GB" in caplog.text
