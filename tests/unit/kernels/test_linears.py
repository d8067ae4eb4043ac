"""The products of the blocks, as the layers compute them and in float8."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.kernels import linears, products
from wan_s2v_pack.wan_s2v_model.kernels.casting import cast_weights
from wan_s2v_pack.wan_s2v_model.kernels.float8 import FLOAT8, Float8Rows
from wan_s2v_pack.wan_s2v_model.kernels.linears import EXACT, Float8Linears, quantise_rows

CPU = torch.device("cpu")


@pytest.fixture
def layers(randomised):
    return randomised(nn.Linear(32, 80)), randomised(nn.Linear(80, 32), seed=1)


def relative_error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


def test_exact_products_are_those_of_the_layers(layers, noise):
    first, second = layers
    x = noise(2, 9, 32)
    assert torch.equal(EXACT(first, x), first(x))
    assert EXACT.input_dtype(torch.bfloat16) == torch.bfloat16
    expected = second(F.gelu(first(x), approximate="tanh"))
    assert torch.equal(EXACT.feed_forward(first, second, x.clone(), cast_weights), expected)


@pytest.mark.parametrize("quantised", [False, True])
def test_float8_products_take_tensors_and_rows(layers, noise, quantised):
    x, float8 = noise(2, 9, 32), Float8Linears(torch.float32)
    out = float8(layers[0], quantise_rows(x) if quantised else x)
    assert out.shape == (2, 9, 80)
    assert 0.005 < relative_error(out, layers[0](x)) < 0.06
    assert float8.input_dtype(torch.bfloat16) == FLOAT8


@pytest.mark.parametrize("chunk_rows", [16, 100])
def test_float8_feed_forward_does_not_depend_on_chunks(layers, noise, chunk_rows):
    x, float8 = noise(2, 19, 32), Float8Linears(torch.float32)
    out = float8.feed_forward(*layers, quantise_rows(x), cast_weights, chunk_rows)
    hidden = F.gelu(float8(layers[0], x), approximate="tanh")
    torch.testing.assert_close(out, float8(layers[1], hidden))
    assert relative_error(out, EXACT.feed_forward(*layers, x, cast_weights)) < 0.1


def test_weight_is_opened_once_for_all_chunks(layers, noise):
    opened = []

    def weights(layer, dtype, device):
        opened.append((layer, dtype, device))
        return linears.float8_weights(layer, dtype, device)

    Float8Linears(torch.bfloat16, weights).feed_forward(*layers, noise(1, 9, 32), cast_weights, 2)
    assert opened == [(layer, torch.bfloat16, CPU) for layer in layers]


@pytest.mark.parametrize("change", ["forward", "pre_quant_scale"])
def test_changed_layer_runs_as_it_is(layers, noise, change):
    first, x = layers[0], noise(1, 9, 32)
    rows = quantise_rows(x)
    if change == "forward":
        first.forward = lambda given: torch.full((*given.shape[:-1], 80), 7.0)
    else:
        first.register_buffer("pre_quant_scale", torch.ones(()))
    assert torch.equal(Float8Linears(torch.float32)(first, rows), first(rows.to(torch.float32)))


def test_all_blocks_and_audio_injectors_are_in_float8(tiny_transformer, clip_inputs, monkeypatch):
    opened = []

    def weights(layer, dtype, device):
        opened.append(layer)
        return linears.float8_weights(layer, dtype, device)

    monkeypatch.setattr(tiny_transformer.audio_injector, "index_of_block", {1: 1})
    exact = call(tiny_transformer, **clip_inputs)
    fast = call(tiny_transformer, **clip_inputs, linears=Float8Linears(torch.float32, weights))
    expected = []
    for index, block in enumerate(tiny_transformer.blocks):
        expected += [block.self_attn.q, block.self_attn.k, block.self_attn.v, block.self_attn.o, block.cross_attn.q, block.cross_attn.o]
        expected += [block.ffn[0], block.ffn[2]]
        if index == 1:
            injector = tiny_transformer.audio_injector.injector[1]
            expected += [injector.q, injector.o]
    assert opened == expected
    assert 1e-4 < relative_error(fast, exact) < 0.1


def test_batch_entries_keep_their_rows(tiny_transformer, clip_inputs):
    """Sums in another order round to another float8 value here and there: far less than the two entries differ."""
    float8 = Float8Linears(torch.float32)
    other = {name: value + 0.1 for name, value in clip_inputs.items()}
    both = call(tiny_transformer, **{name: torch.cat([clip_inputs[name], other[name]]) for name in clip_inputs}, linears=float8)
    alone = [call(tiny_transformer, **inputs, linears=float8) for inputs in (clip_inputs, other)]
    apart = relative_error(alone[0], alone[1])
    for entry, single in zip(both, alone, strict=True):
        assert relative_error(entry[None], single) < apart / 10


@pytest.mark.parametrize(
    ("outcome", "works", "message"),
    [
        (0.0, True, ""),
        (0.5, False, "fp8 is wrong by 5.0e-01"),
        (math.nan, False, "fp8 is wrong by nan"),
        (RuntimeError("no kernel image\nmore"), False, "fp8 does not run here (no kernel image)"),
    ],
)
def test_float8_that_fails_or_is_wrong_is_not_used_and_the_log_says_so(monkeypatch, caplog, outcome, works, message):
    def disagreement(device):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(linears, "_disagreement", disagreement)
    monkeypatch.setattr(linears, "way_of", lambda device: products.INSIDE)
    with caplog.at_level(logging.WARNING):
        assert linears.float8_works(object()) is works
    assert message in caplog.text
    assert bool(caplog.text) is not works


def test_float8_without_a_product_is_not_used_and_the_log_says_so(monkeypatch, caplog):
    monkeypatch.setattr(linears, "way_of", lambda device: "")
    assert not linears.float8_works(object())
    assert "speed: fp8 products do not work here; the linear layers compute as without it" in caplog.text


def distorted(x):
    return x.abs() if isinstance(x, torch.Tensor) else Float8Rows(x.values, 2 * x.scale)


@pytest.mark.parametrize("name", ["product", "quantise_rows", "modulated_norm", "add_then_norm"])
def test_self_test_sees_what_is_wrong_on_one_side(monkeypatch, name):
    calls, real = [], getattr(linears, name)

    def wrong_at_first(x, *args, **kwargs):
        calls.append(name)
        return real(distorted(x) if len(calls) == 1 else x, *args, **kwargs)

    assert linears._disagreement(CPU) == 0
    monkeypatch.setattr(linears, name, wrong_at_first)
    assert linears._disagreement(CPU) > linears.TOLERANCE
