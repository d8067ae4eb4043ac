"""Norms, modulation, time embedding, block and head against plain float64 computations."""

import math

import pytest
import torch
from torch import nn
from wan_s2v_pack.wan_s2v_model.kernels import linears
from wan_s2v_pack.wan_s2v_model.kernels.row_chunks import CHUNK_ROWS_KEY, row_chunks
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Block, Compute, Head, Prompt, Residual, sdpa
from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions

SPLIT = 8  # of 12 tokens
ROPE = rope_table(token_positions(2, 4, 4, with_motion=False), 128)


def plain_norm(x, eps=1e-6):
    x = x - x.mean(dim=-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def run_block(block, x, e, context, **options):
    only_video = options.pop("only_video", False)
    prompt = Prompt(*block.cross_attn.project(context), context)
    return block(Residual(x, SPLIT), e, prompt, ROPE, Compute(**options), only_video).summed()


def make_block(config, randomised):
    return randomised(Block(config, operations=nn))


def test_block_follows_the_specification(tiny_config, randomised, noise):
    block = make_block(tiny_config, randomised)
    x, e, context = noise(1, 12, 256), noise(1, 6, 2, 256, seed=1), noise(1, 5, 256, seed=2)
    row = torch.tensor([0] * SPLIT + [1] * (12 - SPLIT))
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = ((block.modulation[0, i] + e[0, i])[row] for i in range(6))

    y = plain_norm(x) * (1 + scale_a) + shift_a
    expected = x + gate_a * block.self_attn.self_attention(lambda: y, ROPE, Compute())
    normed = plain_norm(expected) * block.norm3.weight + block.norm3.bias
    expected = expected + block.cross_attn(normed, block.cross_attn.project(context), Compute())
    y = plain_norm(expected) * (1 + scale_f) + shift_f
    hidden = y @ block.ffn[0].weight.T + block.ffn[0].bias
    hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    expected = expected + gate_f * (hidden @ block.ffn[2].weight.T + block.ffn[2].bias)
    torch.testing.assert_close(run_block(block, x, e, context), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_cross_attention_and_feed_forward_of_another_node_run(tiny_config, randomised, noise, exact):
    """With the arguments of ComfyUI's own, and never with float8; the layer's own forward, put back as it was, is no change."""
    block, seen = make_block(tiny_config, randomised), []
    inputs = noise(1, 12, 256), noise(1, 6, 2, 256, seed=1), noise(1, 5, 256, seed=2)
    compute = {} if exact else {"linears": linears.Float8Linears(torch.float32)}
    plain = run_block(block, *inputs, **compute)

    def cross_attention(x, context, transformer_options):
        seen.append((type(x), context is inputs[2], transformer_options))
        return torch.zeros_like(x)

    own = block.cross_attn.forward
    block.cross_attn.forward = cross_attention
    block.ffn.forward = lambda x: seen.append(type(x)) or torch.zeros_like(x)
    run_block(block, *inputs, transformer_options={"some": "option"}, **compute)
    assert seen == [(torch.Tensor, True, {"some": "option"}), torch.Tensor]
    block.cross_attn.forward = own
    del block.ffn.forward
    assert torch.equal(run_block(block, *inputs, **compute), plain)


def test_block_leaves_its_inputs_alone(tiny_config, randomised, noise):
    block = make_block(tiny_config, randomised)
    inputs = noise(1, 12, 256), noise(1, 6, 2, 256, seed=1), noise(1, 5, 256, seed=2)
    before = [tensor.clone() for tensor in inputs]
    run_block(block, *inputs)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


def test_block_computes_in_the_dtype_of_the_text_and_keeps_that_of_the_stream(tiny_config, randomised, noise):
    block = make_block(tiny_config, randomised).bfloat16()
    dtypes = []

    def kernel(q, k, v, heads, **_):
        dtypes.append({q.dtype, k.dtype, v.dtype})
        return sdpa(q, k, v, heads)

    x, e, context = noise(1, 12, 256), noise(1, 6, 2, 256, seed=1), noise(1, 5, 256, seed=2).bfloat16()
    assert run_block(block, x, e, context, attention=kernel).dtype == torch.float32
    assert run_block(block, x.bfloat16(), e, context, attention=kernel).dtype == torch.bfloat16
    assert dtypes == [{torch.bfloat16}] * 4


def test_attention_sees_the_options(tiny_config, randomised, noise):
    options, seen = {"block_index": 2}, []

    def kernel(q, k, v, heads, transformer_options):
        seen.append(transformer_options)
        return sdpa(q, k, v, heads)

    inputs = noise(1, 12, 256), noise(1, 6, 2, 256, seed=1), noise(1, 5, 256, seed=2)
    run_block(make_block(tiny_config, randomised), *inputs, attention=kernel, transformer_options=options)
    assert [item is options for item in seen] == [True, True]


def test_head_shifts_by_row_0_and_scales_by_row_1(tiny_config, randomised, noise):
    head = randomised(Head(tiny_config, 4, operations=nn))
    x, e = noise(2, 6, 256), noise(2, 256, seed=1)
    shift, scale = (head.modulation[0, row] + e for row in (0, 1))
    expected = (plain_norm(x) * (1 + scale[:, None]) + shift[:, None]) @ head.head.weight.T + head.head.bias
    assert expected.shape == (2, 6, 64)
    torch.testing.assert_close(head(x, e), expected, atol=1e-5, rtol=1e-5)


def test_head_runs_in_float32(tiny_config, randomised, noise):
    head = randomised(Head(tiny_config, 4, operations=nn)).bfloat16()
    assert head(noise(1, 6, 256).bfloat16(), noise(1, 256, seed=1)).dtype == torch.float32


def test_feed_forward_in_smaller_pieces_gives_the_same(tiny_config, randomised, noise, monkeypatch):
    pieces = []
    monkeypatch.setattr(linears, "row_chunks", lambda rows, limit: pieces.append(list(row_chunks(rows, limit))) or pieces[-1])
    block = make_block(tiny_config, randomised)
    inputs = noise(2, 12, 256), noise(2, 6, 2, 256, seed=1), noise(2, 5, 256, seed=2)
    whole, parts = (run_block(block, *inputs, transformer_options=options) for options in ({}, {CHUNK_ROWS_KEY: 16}))
    assert [len(piece) for piece in pieces] == [1, 2]
    torch.testing.assert_close(parts, whole, atol=2e-5, rtol=2e-5)
