"""Who computes what in a step: the fastest division, by speeds that are measured, and its words."""

import random
from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model.constants import HEADS, KEYS
from wan_s2v_pack.wan_s2v_model.sampling.gpus import Call, Group, Speeds, describe, divide, most_gpus, seconds_of_step

TERA, GIGA = 1e12, 1e9
CALL = Call(work=2e15, sent=28.7e9, num_heads=40)  # one at 832x480, in bf16
H200, RTX_4090, RTX_3060 = 720 * TERA, 150 * TERA, 25 * TERA
NVLINK, PCIE_4, PCIE_3 = 300 * GIGA, 12.9 * GIGA, 3 * GIGA


def link_of(speed):
    return lambda source, target: speed


# GPUs that are alike


@pytest.mark.parametrize(
    ("gpus", "calls", "crews", "work"),
    [
        (1, 1, 1, 1.0),
        (1, 3, 1, 3.0),
        (2, 1, 1, 0.5),
        (2, 2, 2, 1.0),
        (2, 3, 1, 1.5),
        (3, 2, 1, 2 / 3),
        (3, 3, 3, 1.0),
        (4, 1, 1, 0.25),
        (4, 2, 2, 0.5),
        (4, 3, 1, 0.75),
        (6, 3, 3, 0.5),
        (8, 2, 2, 0.25),
        (2, 0, 1, 0.0),
    ],
)
def test_guidance_is_divided_first_where_no_gpu_waits(gpus, calls, crews, work):
    speeds = Speeds([1.0] * gpus)
    assert len(speeds.groups(calls, Call())) == crews
    assert speeds.work_of_step(calls, Call()) == pytest.approx(work)


def test_crews_of_gpus_that_are_alike_are_of_neighbours_in_equal_shares():
    assert divide([1.0, 0.99, 1.0, 0.98], 2) == (Group((0, 1), (0.5, 0.5)), Group((2, 3), (0.5, 0.5)))


@pytest.mark.parametrize(
    ("count", "link", "over"),
    [(2, NVLINK, KEYS), (2, PCIE_4, KEYS), (4, PCIE_4, HEADS), (8, NVLINK, HEADS)],
)
def test_what_takes_less_time_on_the_link_is_exchanged(count, link, over):
    (group,) = Speeds([H200 if link == NVLINK else RTX_4090] * count, link_of(link)).groups(1, CALL)
    assert group.over == over


def test_heads_do_not_travel_where_they_cannot():
    for call in (replace(CALL, num_heads=0), replace(CALL, num_heads=7)):
        (group,) = Speeds([H200] * 8, link_of(NVLINK)).groups(1, call)
        assert group.over == KEYS or len(group.members) <= call.num_heads


# GPUs that are not


def test_shares_follow_the_speeds():
    (group,) = divide([3.0, 1.0], 1)
    assert group.shares == (0.75, 0.25)


def test_calls_are_shared_where_a_slow_gpu_would_hold_up_guidance():
    assert [group.members for group in divide([1.0, 0.8], 2)] == [(0, 1)]
    assert [group.members for group in divide([1.0, 0.99], 2)] == [(0,), (1,)]


def test_crews_are_as_fast_as_each_other():
    groups = divide([1.0, 1.0, 0.3, 0.3], 2)
    assert sorted(group.members for group in groups) == [(0, 2), (1, 3)]


@pytest.mark.parametrize("order", [(RTX_4090, 0.01 * RTX_4090), (0.01 * RTX_4090, RTX_4090)])
def test_a_card_that_is_too_slow_is_left_out_wherever_it_stands(order):
    (group,) = divide(order, 1)
    assert group.members == (order.index(RTX_4090),)


def test_a_card_behind_a_slow_link_is_left_out():
    assert len(Speeds([RTX_4090, RTX_3060], link_of(0.5 * GIGA)).groups(1, CALL)[0].members) == 1
    assert len(Speeds([RTX_4090, RTX_3060], link_of(PCIE_4)).groups(1, CALL)[0].members) == 2


class Machine:
    """GPUs whose speeds nobody knows: what a step takes follows from them, and a clock that only it moves.

    Args:
        rates: true operations per second. loss: seconds that are lost for each byte that a GPU gets.
    """

    def __init__(self, rates, loss):
        self.rates, self.loss, self.seconds = rates, loss, 0.0

    def lost(self, group, call):
        shares = group.shares if len(group.members) > 1 else (1.0,)
        got = 1 - min(shares) if group.over == KEYS else 2 * max(share * (1 - share) for share in shares)
        return self.loss * call.sent * got

    def step(self, speeds, num_calls, call=CALL):
        groups = speeds.groups(num_calls, call)
        for group in groups:
            working = [share * call.work / self.rates[gpu] for gpu, share in zip(group.members, group.shares, strict=True)]
            speeds.learn(group, call, working, max(working) + self.lost(group, call))
        self.seconds += seconds_of_step(groups, self.rates, num_calls, call, self.lost)
        return groups


def alone(rates, num_calls, num_steps):
    return num_steps * num_calls * CALL.work / max(rates)


@pytest.mark.parametrize("num_calls", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [4, 10, 40])
@pytest.mark.parametrize("seed", range(40))
def test_an_unlike_second_card_never_costs_more_than_two_percent(num_calls, num_steps, seed):
    """Any card beside a 4090 in either place, on any link; guesses are off by a quarter, and most of the copying is hidden or nothing."""
    generator = random.Random(1000 * num_calls + 10 * seed + num_steps)
    rates = [RTX_4090, RTX_4090 * generator.uniform(0.02, 0.95)]
    link = generator.choice([PCIE_3, PCIE_4, NVLINK]) * generator.uniform(0.5, 1.5)
    generator.shuffle(rates)
    machine = Machine(rates, generator.uniform(0.2, 1.0) / link)
    speeds = Speeds([rate * generator.uniform(0.8, 1.25) for rate in rates], link_of(link))
    for _ in range(num_steps):
        machine.step(speeds, num_calls)
    assert machine.seconds <= 1.02 * alone(rates, num_calls, num_steps)


def test_a_3060_helps_a_4090():
    rates = [RTX_4090, RTX_3060]
    machine, speeds = Machine(rates, 0.1 / PCIE_4), Speeds([RTX_4090, 1.2 * RTX_3060], link_of(PCIE_4))
    for _ in range(40):
        groups = machine.step(speeds, 1)
    assert groups[0].members == (0, 1)
    assert machine.seconds < 0.95 * alone(rates, 1, 40)


def test_guess_that_was_much_too_high_is_corrected_behind_the_first_step():
    rates = [RTX_4090, 0.2 * RTX_4090]
    machine, speeds = Machine(rates, 0.0), Speeds([RTX_4090, RTX_4090], link_of(NVLINK))
    assert machine.step(speeds, 1)[0].shares == (0.5, 0.5)
    first = machine.seconds
    machine.step(speeds, 1)
    assert machine.seconds - first < 0.9 * alone(rates, 1, 1)


def test_what_was_learnt_in_one_clip_holds_in_the_next_of_another_size():
    rates = [RTX_4090, 0.4 * RTX_4090]
    machine, speeds = Machine(rates, 0.0), Speeds([2 * rate for rate in rates], link_of(NVLINK))
    shares = [machine.step(speeds, 1, call)[0].shares for call in (CALL, CALL, Call(1.3 * CALL.work, 1.2 * CALL.sent, 40))]
    assert shares[1] == shares[2] != shares[0]


def test_shares_do_not_follow_what_is_noise():
    """Other shares are other bits in the last place."""
    generator, seen = random.Random(3), set()
    machine, speeds = Machine([RTX_4090, 0.5 * RTX_4090], 0.0), Speeds([RTX_4090, 0.5 * RTX_4090], link_of(NVLINK))
    for _ in range(200):
        machine.rates = [rate * generator.uniform(0.995, 1.005) for rate in (RTX_4090, 0.5 * RTX_4090)]
        seen.add(machine.step(speeds, 1)[0].shares)
    assert len(seen) <= 3


# Words


@pytest.mark.parametrize(
    ("gpus", "calls", "text"),
    [
        (1, ["prompt", "negative"], ""),
        (2, ["prompt", "negative"], "2 GPUs: prompt | negative"),
        (2, ["prompt"], "2 GPUs on each model call"),
        (2, ["prompt", "negative", "silent"], "2 GPUs on each model call"),
        (3, ["prompt", "negative", "silent"], "3 GPUs: prompt | negative | silent"),
        (4, ["prompt", "negative"], "4 GPUs: 2 x 2"),
        (2, ["prompt", "prompt", "negative", "negative"], "2 GPUs: 2 x 1"),
    ],
)
def test_words(gpus, calls, text):
    assert describe(divide([1.0] * gpus, len(calls)), calls, gpus) == text


@pytest.mark.parametrize(
    ("rates", "text"),
    [
        ((3.0, 1.0), "2 GPUs on each model call: 75% | 25%"),
        ((1.0, 0.01), "1 GPU, 1 left out, with which a step would take longer"),
        ((1.0, 1.0, 0.3), "3 GPUs on each model call: 44% | 44% | 12%"),
    ],
)
def test_words_of_gpus_that_are_not_alike(rates, text):
    assert describe(divide(rates, 1), ["prompt"], len(rates)) == text


# What a queued graph says


def graph(**split):
    """Draft or Final in front of the sampler, and core's node behind the loader of one of its models."""
    return {
        "1": {"class_type": "WanS2VModelLoader", "inputs": {"model_name": "some"}},
        "2": {"class_type": "MultiGPU_WorkUnits", "inputs": {"model": ["1", 0], **split}}
        if split
        else {"class_type": "Other", "inputs": {}},
        "3": {"class_type": "WanS2VDraftOrFinal", "inputs": {"model": ["2", 0], "draft_model": ["1", 0]}},
        "9": {"class_type": "WanS2VPrepare", "inputs": {}},
        "11": {"class_type": "WanS2VSampler", "inputs": {"model": ["3", 0], "plan": ["9", 0]}},
    }


@pytest.mark.parametrize(
    ("prompt", "most"),
    [(graph(max_gpus=4), 4), (graph(), 1), (graph(max_gpus=["7", 0]), 1), ({}, 1), ({"9": {}, "11": {"inputs": {"plan": ["9", 0]}}}, 1)],
)
def test_gpus_that_a_graph_allows(prompt, most):
    assert most_gpus(prompt, "9") == most
    assert most_gpus(prompt, "10") == 1
