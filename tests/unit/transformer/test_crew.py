"""One model call by several members at once, on the CPU: the same as by one, and an error of one ends it for all."""

import copy
import threading

import pytest
import torch
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.constants import HEADS, KEYS
from wan_s2v_pack.wan_s2v_model.kernels.float8 import Float8Heads
from wan_s2v_pack.wan_s2v_model.transformer import shards
from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt, Stopwatch
from wan_s2v_pack.wan_s2v_model.transformer.model import SharedSelfAttention

CPU = torch.device("cpu")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LARGE = {"x": 3, "ref_latents": 1, "motion_latents": 19, "pose_latents": 3}  # latent frames of 35 tokens


@pytest.fixture
def crew():
    """Makes crews; their threads end with the test."""
    crews = []

    def make(size, **settings):
        crews.append(Crew([CPU] * size, **{"halt": Halt(), **settings}))
        return crews[-1]

    yield make
    for each in crews:
        each.close()


def together(crew, transformer, inputs, **more):
    return crew.run(lambda member: call(transformer, **inputs, **more, team=member))


def in_dtype(inputs, dtype):
    return {name: value if name == "timestep" else value.to(dtype) for name, value in inputs.items()}


def without(inputs, *names):
    return {**inputs, **dict.fromkeys(names)}


@pytest.fixture
def odd_inputs(clip_inputs, noise):
    """In two entries of a batch."""
    large = {name: noise(1, 16, frames, 10, 14, seed=30 + frames) for name, frames in LARGE.items()}
    inputs = {**clip_inputs, **large, "audio_embedding": noise(1, 25, 8, 12, seed=31)}
    return {name: torch.cat([value, value * 0.9]) for name, value in inputs.items()}


# The result


@pytest.mark.parametrize("over", [KEYS, HEADS])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_many_give_what_one_gives(tiny_transformer, clip_inputs, crew, size, over):
    alone = call(tiny_transformer, **clip_inputs)
    torch.testing.assert_close(together(crew(size, over=over), tiny_transformer, clip_inputs), alone, **CLOSE)


@pytest.mark.parametrize("over", [KEYS, HEADS])
@pytest.mark.parametrize("shares", [(3.0, 1.0), (0.6, 0.1, 0.3)])
def test_unequal_shares(tiny_transformer, clip_inputs, crew, shares, over):
    alone = call(tiny_transformer, **clip_inputs)
    crew = crew(len(shares), shares=shares, over=over)
    torch.testing.assert_close(together(crew, tiny_transformer, clip_inputs), alone, **CLOSE)


@pytest.mark.parametrize("over", [KEYS, HEADS])
@pytest.mark.parametrize("absent", [(), ("motion_latents",), ("pose_latents",), ("audio_embedding",)])
def test_sizes_that_do_not_divide_and_inputs_that_are_absent(tiny_transformer, odd_inputs, crew, absent, over):
    inputs = without(odd_inputs, *absent)
    alone = call(tiny_transformer, **inputs)
    torch.testing.assert_close(together(crew(4, over=over), tiny_transformer, inputs), alone, **CLOSE)


@pytest.fixture
def float8_attention():
    """Attention that takes float8, as on a GPU, and what it was given."""
    seen = []

    def attention(q, k, v, heads, **_):
        seen.append(tuple(type(t) for t in (q, k, v)))
        return sdpa(*(t.to(torch.float32).flatten(2) if isinstance(t, Float8Heads) else t for t in (q, k, v)), heads)

    attention.float8_beyond = 16
    attention.seen = seen
    return attention


@pytest.mark.parametrize("size", [2, 3])
def test_float8_travels_in_float8_and_costs_no_more_than_on_one(tiny_transformer, clip_inputs, crew, float8_attention, size):
    """A mean of each member's own keys would not be the same for all, and the weights of the keys wrong."""
    exact = call(tiny_transformer, **clip_inputs)
    alone = call(tiny_transformer, **clip_inputs, attention=float8_attention)
    float8_attention.seen.clear()
    shared = together(crew(size), tiny_transformer, clip_inputs, attention=float8_attention)
    assert float8_attention.seen.count((Float8Heads,) * 3) == size * len(tiny_transformer.blocks)
    assert 0 < (shared - exact).norm() < 1.3 * (alone - exact).norm()


def test_exchange_of_heads_stays_exact(tiny_transformer, clip_inputs, crew, float8_attention):
    together(crew(2, over=HEADS), tiny_transformer, clip_inputs, attention=float8_attention)
    assert {kind for kinds in float8_attention.seen for kind in kinds} == {torch.Tensor}


@pytest.mark.parametrize("over", [KEYS, HEADS])
def test_error_of_two_is_no_larger_than_that_of_one(tiny_transformer, clip_inputs, crew, over):
    """In bf16, against float64."""
    exact = copy.deepcopy(tiny_transformer).double()
    exact.residual_dtype = torch.float64
    expected = call(exact, **in_dtype(clip_inputs, torch.float64))
    rounded = copy.deepcopy(tiny_transformer).bfloat16()
    inputs = in_dtype(clip_inputs, torch.bfloat16)
    alone, shared = call(rounded, **inputs), together(crew(2, over=over), rounded, inputs)
    errors = [float((result - expected).norm() / expected.norm()) for result in (alone, shared)]
    assert errors[0] > 1e-4
    assert errors[1] < 1.05 * errors[0]


def test_every_member_gets_the_whole(tiny_transformer, clip_inputs, crew):
    results = [None] * 3

    def work(member):
        results[member.rank] = call(tiny_transformer, **clip_inputs, team=member)
        return results[member.rank]

    crew(3).run(work)
    assert all(torch.equal(result, results[0]) for result in results)


def test_wrong_order_of_tokens_is_noticed(tiny_transformer, clip_inputs, crew, monkeypatch):
    alone = call(tiny_transformer, **clip_inputs)
    order = shards.video_order
    monkeypatch.setattr(shards, "video_order", lambda *args: order(*args).flip(0))
    assert (together(crew(2), tiny_transformer, clip_inputs) - alone).abs().max() > 0.1


def test_slices_that_are_not_of_every_frame_are_noticed(tiny_transformer, clip_inputs, crew, monkeypatch):
    alone = call(tiny_transformer, **clip_inputs)

    def flat(shards, member, device):
        return torch.arange(sum(shards.counts)).split(shards.counts)[member]

    monkeypatch.setattr(shards, "rows", flat)
    assert (together(crew(2), tiny_transformer, clip_inputs) - alone).abs().max() > 0.1


def test_same_inputs_give_the_same_bits(tiny_transformer, clip_inputs, crew):
    crew = crew(3)
    results = [together(crew, tiny_transformer, clip_inputs) for _ in range(20)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_first_self_attention_is_shared_by_each_part(tiny_transformer, clip_inputs, crew):
    shared, other = SharedSelfAttention(), {**clip_inputs, "context": clip_inputs["context"] * 0.5}
    crew = crew(2)
    for inputs in (clip_inputs, other):
        result = together(crew, tiny_transformer, inputs, shared_attention=shared)
        torch.testing.assert_close(result, call(tiny_transformer, **inputs), **CLOSE)
        alone = call(tiny_transformer, **inputs, shared_attention=shared)  # one GPU does it in another step: its part is the whole
        torch.testing.assert_close(alone, call(tiny_transformer, **inputs), **CLOSE)


# Trouble


class UserCancelledError(BaseException):
    """As ComfyUI's interrupt is none that `except Exception` catches."""


@pytest.mark.parametrize("error", [UserCancelledError, torch.OutOfMemoryError])
@pytest.mark.parametrize("failing", [0, 2])
def test_error_of_one_ends_the_call_of_all(tiny_transformer, clip_inputs, crew, failing, error):
    blocks = [0] * 3

    def work(member):
        def next_block():
            member.check()
            blocks[member.rank] += 1
            if member.rank == failing and blocks[failing] == 2:
                raise error("in the second block")

        return call(tiny_transformer, **clip_inputs, team=member, next_block=next_block)

    with pytest.raises(error, match="second block"):
        crew(3).run(work)
    assert max(blocks) <= 2


def test_error_in_one_crew_ends_those_of_others(crew):
    halt = Halt()
    waiting, failing = crew(2, halt=halt), crew(1, halt=halt)
    reached, seen = threading.Event(), []

    def wait(member):
        reached.set()
        if member.rank == 0:
            member.exchange([torch.ones(1, 1)] * 2, [torch.ones(1, 1)] * 2)  # the other one never comes
        while True:
            member.check()

    def run():
        try:
            waiting.run(wait)
        except ValueError as error:
            seen.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    reached.wait(10)

    def fail(member):
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        failing.run(fail)
    thread.join(10)
    assert not thread.is_alive()
    assert [str(error) for error in seen] == ["lost"]


def test_no_thread_stays(tiny_transformer, clip_inputs):
    before = threading.active_count()
    for _ in range(20):
        crew = Crew([CPU] * 3, Halt())
        crew.run(lambda member: torch.zeros(1))
        crew.close()
    assert threading.active_count() == before


def test_members_compute_in_the_mode_of_the_caller(crew):
    modes = []

    def work(member):
        modes.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return torch.zeros(1)

    crew = crew(2)
    with torch.inference_mode():
        crew.run(work)
    with torch.no_grad():
        crew.run(work)
    assert modes == [(True, False)] * 2 + [(False, False)] * 2


def test_stopwatch_counts_computing_without_waiting():
    times = iter([1.0, 3.0, 7.0, 8.0])
    watch = Stopwatch(CPU, lambda: next(times))
    for _ in range(4):
        watch.mark()
    assert watch.is_over
    assert watch.seconds() == (3.0, 7.0)


def test_members_are_timed_by_what_they_compute(tiny_transformer, clip_inputs, crew):
    """A clock that stands still but where the test moves it: the slow one takes three times as long, and nobody counts waiting for it."""
    now = threading.local()

    def work(member):
        def next_block():
            now.seconds = getattr(now, "seconds", 0.0) + (3.0 if member.rank else 1.0)

        return call(tiny_transformer, **clip_inputs, team=member, next_block=next_block)

    watches = [Stopwatch(CPU, lambda: getattr(now, "seconds", 0.0)) for _ in range(2)]
    crew(2).run(work, watches)
    blocks = len(tiny_transformer.blocks) + 1
    assert [watch.seconds()[0] for watch in watches] == [blocks, 3 * blocks]


def test_crews_that_share_a_device_do_not_mix_their_parts(tiny_transformer, clip_inputs, crew):
    shared = SharedSelfAttention()
    for _ in range(2):
        together(crew(2), tiny_transformer, clip_inputs, shared_attention=shared)
    assert len(shared._kept) == 4
