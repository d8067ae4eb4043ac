"""Tokens, memory, operations and time of a job: against the transformer itself, and against what was measured on one H100."""

import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.cost.estimate import (
    Job,
    ModelFacts,
    Rates,
    activation_bytes,
    constant_bytes,
    estimate,
    model_flop,
    num_parameters,
    num_tokens,
)
from wan_s2v_pack.wan_s2v_model.kernels import fused
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B
from wan_s2v_pack.wan_s2v_model.transformer.model import Conditions, WanS2VTransformer
from wan_s2v_pack.wan_s2v_model.transformer.rope import token_positions

H100 = Rates(linear=0.84 * 784e12, attention=0.85 * 784e12, vae=0.104 * 784e12)
H100_FLOAT8 = replace(H100, linear=1.38 * 784e12, attention=1.18 * 784e12)
BF16 = ModelFacts(S2V_14B, weights_bytes=32.59e9, value_bytes=2, residual_bytes=4)
FP8 = replace(BF16, weights_bytes=16.4e9)
SMALL, LARGE = {"height": 480, "width": 832}, {"height": 704, "width": 1024}
TWO_BLOCKS = replace(S2V_14B, num_layers=2, audio_inject_layers=(0,))


def plan(num_clips=2, **options):
    num_samples = round((80 * num_clips - 3) * 1000)
    timeline = plan_timeline(num_samples, 16_000, num_samples, **options)
    assert num_clips == timeline.num_clips or options
    return timeline


def job(num_clips=2, steps=40, model_calls=2, **options):
    return Job(plan(num_clips), **{**SMALL, "steps": steps, "model_calls": model_calls, **options})


# Tokens and operations


@pytest.mark.parametrize(
    ("height", "width", "with_motion", "tokens", "petaflop"),
    [
        (60, 104, False, 32_760, 1.72),
        (60, 104, True, 35_074, 1.90),
        (56, 104, True, 32_760, 1.72),
        (64, 96, True, 34_560, 1.86),
        (88, 128, False, 59_136, 4.38),
        (88, 128, True, 63_360, 4.90),
        (88, 160, True, 79_200, 7.16),
    ],
)
def test_table_of_the_14b_model(height, width, with_motion, tokens, petaflop):
    assert num_tokens(20, height, width, with_motion) == tokens
    assert sum(model_flop(S2V_14B, tokens, 20 * height * width // 4)) / 1e15 == pytest.approx(petaflop, rel=0.01)


@pytest.mark.parametrize("size", [(8, 12), (60, 104), (10, 14)])
@pytest.mark.parametrize("with_motion", [True, False])
def test_tokens_are_those_of_the_transformer(size, with_motion):
    assert num_tokens(3, *size, with_motion) == len(token_positions(3, *size, with_motion))


def test_operations_are_those_that_torch_counts():
    every_token = {"patches": {"double_block": [lambda args: args]}}  # else the last block leaves out those that the head does not need
    tokens = num_tokens(20, 60, 104, with_motion=True)
    with FlopCounterMode(display=False) as counter:
        run_on_meta(60, 104, torch.bfloat16, None, every_token)
    linear, attention = model_flop(TWO_BLOCKS, tokens, 20 * 60 * 104 // 4)
    once_per_clip = 4.2e11  # projections of text and sound
    not_counted = 2 * 2 * 2 * 512 * 5120 * tokens  # attention to the text, which the stand-in leaves out
    assert counter.get_total_flops() == pytest.approx(linear - not_counted + once_per_clip, rel=0.01)
    assert attention == 4 * 2 * 5120 * tokens**2


# Memory of one model call, by counting the tensors that live


class LiveBytes(TorchDispatchMode):
    """The most bytes that live at once in tensors made under it; those of `known` are not counted."""

    def __init__(self, known):
        super().__init__()
        self.storages = [tensor.untyped_storage() for tensor in known]
        self.seen = {storage._cdata for storage in self.storages}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in filter(torch.is_tensor, tree_leaves(out)):
            self.count(tensor.untyped_storage())
        return out

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key, size):
        self.seen.discard(key)
        self.now -= size


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def has_kernels(request, monkeypatch):
    """The transformer with the fused kernels, which do nothing here, or with torch code whose norm is one kernel, as on a GPU."""
    if request.param:
        nothing = SimpleNamespace(add_norm=lambda *_: None, rms_norm_rope=lambda *_, **__: None)
        monkeypatch.setitem(sys.modules, f"{fused.__package__}.triton_blocks", nothing)
        monkeypatch.setattr(sys.modules[fused.__package__], "triton_blocks", nothing, raising=False)
        monkeypatch.setattr(fused, "kernels_work", lambda device: True)
    else:
        monkeypatch.setattr(torch.nn.functional, "rms_norm", lambda x, *_: torch.empty_like(x))
    return request.param


def one_kernel_attention(q, k, v, heads, **_):
    return torch.empty_like(q)


def run_on_meta(height, width, dtype, residual_dtype, options=None):
    """A forward pass of two full-size blocks without memory or arithmetic; the bytes that would have lived in a run."""
    model = WanS2VTransformer(TWO_BLOCKS, dtype=dtype, device="meta", residual_dtype=residual_dtype)

    def empty(*shape):
        return torch.empty(shape, device="meta", dtype=dtype)

    x, timestep, context = [empty(1, 16, 20, height, width), torch.zeros(1), empty(1, 512, 4096)]
    latents = {"ref_latents": empty(1, 16, 1, height, width), "motion_latents": empty(1, 16, 19, height, width)}
    with LiveBytes(model.parameters()) as live, torch.no_grad():
        compute = Compute(one_kernel_attention, transformer_options=options or {})
        model(x, timestep, Conditions(context, audio_embedding=empty(1, 25, 1024, 80), **latents), compute)
    return live.peak


@pytest.mark.parametrize(
    ("dtype", "residual_dtype"), [(torch.bfloat16, torch.float32), (torch.bfloat16, None), (torch.float32, torch.float32)]
)
@pytest.mark.parametrize(("height", "width"), [(60, 104), (88, 128), (104, 176)])
def test_activations_are_the_tensors_that_live(height, width, dtype, residual_dtype, has_kernels):
    tokens = num_tokens(20, height, width, with_motion=True)
    model = ModelFacts(TWO_BLOCKS, 1e9, dtype.itemsize, (residual_dtype or dtype).itemsize, has_kernels=has_kernels)
    constants = constant_bytes(tokens, job(model_calls=1, height=8 * height, width=8 * width), model)
    assert activation_bytes(tokens, model) + constants == pytest.approx(run_on_meta(height, width, dtype, residual_dtype), rel=0.02)


# Against measurements: one H100, precision official, a later clip of 80 frames, fused kernels, FlashAttention 3; docs/performance.md


def test_parameters_of_the_14b_model():
    assert num_parameters(S2V_14B) == 16_295_755_609


@pytest.mark.parametrize(
    ("size", "rates", "seconds"), [(SMALL, H100, 2.74), (LARGE, H100, 7.16), (SMALL, H100_FLOAT8, 1.93), (LARGE, H100_FLOAT8, 5.02)]
)
def test_seconds_of_a_model_call(size, rates, seconds):
    one, two = (estimate(job(steps=steps, model_calls=1, **size, first_clip=1), BF16, rates).seconds for steps in (1, 2))
    assert two - one == pytest.approx(seconds, rel=0.05)


@pytest.mark.parametrize(("size", "gigabytes"), [(SMALL, 32.6 + 2.75 + 0.6), (LARGE, 32.6 + 4.54 + 0.6)])
def test_memory_with_everything_on_the_gpu(size, gigabytes):
    cost = estimate(job(model_calls=1, **size), replace(BF16, is_resident=True), H100)
    assert cost.least_device_bytes == cost.full_device_bytes
    assert cost.full_device_bytes == pytest.approx(gigabytes * 1e9, rel=0.05)  # weights, torch's peak, CUDA's context


@pytest.mark.parametrize(("size", "card_bytes"), [(SMALL, 8e9), (LARGE, 8e9)])
def test_least_memory_is_less_than_what_sufficed(size, card_bytes):
    assert 0.5 * card_bytes < estimate(job(**size), BF16, H100).least_device_bytes < card_bytes


def test_constants_of_a_prompt():
    assert constant_bytes(35_074, job(model_calls=1), BF16) == pytest.approx(0.42e9 + 0.06e9, rel=0.02)
    assert constant_bytes(35_074, job(model_calls=1.4, conditionings=3), BF16) == constant_bytes(35_074, job(model_calls=3), BF16)


def test_full_speed_needs_the_weights_of_every_step():
    cost = estimate(job(model_calls=1), BF16, H100)
    beside = activation_bytes(cost.tokens, BF16) + constant_bytes(cost.tokens, job(model_calls=1), BF16)
    assert cost.full_device_bytes - beside - 0.8e9 == pytest.approx(25.6e9, rel=0.01)
    assert cost.host_bytes - cost.clip_host_bytes == BF16.weights_bytes


@pytest.mark.parametrize(("size", "gigabytes"), [(SMALL, 6.41), (LARGE, 11.57)])
def test_full_speed_includes_the_vae(size, gigabytes):
    tiny = ModelFacts(TWO_BLOCKS, weights_bytes=1e6, value_bytes=2, residual_bytes=2)
    assert estimate(job(**size), tiny, H100).full_device_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)
    assert estimate(job(**size, vae_value_bytes=2), tiny, H100).full_device_bytes / 1e9 < 0.7 * gigabytes


@pytest.mark.parametrize(("num_clips", "seconds"), [(1, 275 / 81), (2, (275 + 148 + 519) / 81)])
def test_seconds_of_the_vae(num_clips, seconds):
    no_steps = estimate(job(num_clips, steps=0), BF16, replace(H100, vae=81e12))
    assert no_steps.seconds == pytest.approx(seconds, rel=0.01)


# How the figures hang together


def test_first_clip_alone_has_no_motion_tokens():
    assert estimate(job(1), BF16, H100).tokens == 32_760
    assert estimate(job(2), BF16, H100).tokens == 35_074
    assert estimate(replace(job(1), timeline=plan(1, free_start=False)), BF16, H100).tokens == 35_074


@pytest.mark.parametrize("name", ["tokens", "least_device_bytes", "full_device_bytes", "clip_host_bytes", "seconds"])
def test_larger_pictures_and_longer_clips_cost_more(name):
    sizes = [(64, 64), (256, 256), (480, 832), (704, 1024), (720, 1280)]
    jobs = [replace(job(), height=height, width=width) for height, width in sizes]
    by_size = [getattr(estimate(item, FP8, H100), name) for item in jobs]
    assert by_size == sorted(set(by_size))
    lengths = [replace(job(), timeline=replace(plan(), frames_per_clip=frames)) for frames in (4, 16, 80, 120)]
    by_length = [getattr(estimate(item, FP8, H100), name) for item in lengths]
    assert by_length == sorted(set(by_length))


def test_time_counts_clips_that_are_left_steps_and_calls():
    def seconds(**options):
        return estimate(job(**options), BF16, H100).seconds

    assert seconds(num_clips=3) - seconds(num_clips=3, first_clip=1) == pytest.approx(
        seconds(num_clips=2) - seconds(num_clips=2, first_clip=1)
    )
    assert seconds(num_clips=3, first_clip=2) == pytest.approx(seconds(num_clips=2, first_clip=1))
    assert seconds(steps=0, first_clip=2) == 0
    step = seconds(steps=1) - seconds(steps=0)
    assert seconds(steps=40) - seconds(steps=0) == pytest.approx(40 * step)
    assert seconds(steps=1, model_calls=1) - seconds(steps=0) == pytest.approx(step / 2)


def test_smaller_weights_and_stream_need_less():
    costs = [estimate(job(), model, H100) for model in (BF16, FP8, replace(FP8, residual_bytes=2))]
    for name in ("least_device_bytes", "full_device_bytes"):
        assert getattr(costs[0], name) > getattr(costs[1], name) > getattr(costs[2], name)


def test_tiny_model_never_needs_more_than_all_of_its_weights(tiny_config):
    tiny = ModelFacts(tiny_config, weights_bytes=4 * num_parameters(tiny_config), value_bytes=4, residual_bytes=4)
    small = replace(job(), height=64, width=64)
    cost, resident = estimate(small, tiny, H100), estimate(small, replace(tiny, is_resident=True), H100)
    assert cost.least_device_bytes <= cost.full_device_bytes <= resident.full_device_bytes
    assert resident.full_device_bytes < 1.2e9


# Fast modes


def test_guidance_on_a_part_of_the_steps_takes_that_part_of_the_time_but_as_much_memory():
    none, half, whole = (estimate(job(num_clips=1, model_calls=calls), BF16, H100) for calls in (1, 1.5, 2))
    assert whole.seconds - half.seconds == pytest.approx(half.seconds - none.seconds)
    assert half.full_device_bytes == whole.full_device_bytes > none.full_device_bytes


def test_shorter_warm_up_of_the_vae_saves_time_in_later_clips_only():
    saved = [estimate(job(clips), BF16, H100).seconds - estimate(job(clips, vae_warmup=4), BF16, H100).seconds for clips in (1, 2, 3)]
    assert saved[0] == 0
    assert saved[1] == pytest.approx(15 * 33.9e6 * 480 * 832 / H100.vae)
    assert saved[2] == pytest.approx(2 * saved[1])
