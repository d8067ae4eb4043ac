"""torch.compile: one graph for all blocks, and the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.utils import counters
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.kernels import triton_works
from wan_s2v_pack.wan_s2v_model.transformer.model import SharedSelfAttention, WanS2VTransformer

MORE_BLOCKS_THAN_RECOMPILATIONS = 12  # torch gives up on a function after 8


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def transformer(tiny_config, randomised):
    blocks = {"num_layers": MORE_BLOCKS_THAN_RECOMPILATIONS, "audio_inject_layers": tuple(range(0, MORE_BLOCKS_THAN_RECOMPILATIONS, 2))}
    return randomised(WanS2VTransformer(replace(tiny_config, **blocks)))


def compile_as_comfyui(function, **options):
    """With the backend that only traces, and without guards on what nodes pass in transformer_options, as ComfyUI's node does."""
    no_guards = {"guard_filter_fn": lambda guards: ["transformer_options" not in guard.name for guard in guards]}
    return torch.compile(function, backend="eager", options=no_guards, **options)


def num_graphs():
    return counters["stats"]["unique_graphs"]


GRAPHS = 3  # of blocks in which a sum waits, of those in which none does, and of the last


def test_blocks_compile_to_few_graphs(transformer, clip_inputs):
    expected = call(transformer, **clip_inputs)
    for index, block in enumerate(transformer.blocks):
        transformer.blocks[index] = compile_as_comfyui(block, fullgraph=True)
    assert torch.equal(call(transformer, **clip_inputs), expected)
    assert num_graphs() == GRAPHS
    call(transformer, **{**clip_inputs, "timestep": torch.tensor([500.0])})
    assert num_graphs() == GRAPHS


def test_clips_of_another_length_and_a_known_attention_stay_below_the_limit(transformer, clip_inputs, caplog):
    first_clip = {name: value for name, value in clip_inputs.items() if name != "motion_latents"}
    expected = [call(transformer, **inputs) for inputs in (first_clip, clip_inputs)]
    for index, block in enumerate(transformer.blocks):
        transformer.blocks[index] = compile_as_comfyui(block)
    for _ in range(2):
        for inputs, exact in zip((first_clip, clip_inputs), expected, strict=True):
            assert torch.equal(call(transformer, **inputs), exact)
            assert torch.equal(call(transformer, **inputs, shared_attention=SharedSelfAttention()), exact)
    assert "recompile_limit" not in caplog.text


def test_whole_model_compiles_without_a_graph_for_each_block(transformer, clip_inputs, caplog):
    expected = call(transformer, **clip_inputs)
    compiled = compile_as_comfyui(transformer)
    assert torch.equal(call(compiled, **clip_inputs), expected)
    graphs = num_graphs()
    assert graphs < 2 * MORE_BLOCKS_THAN_RECOMPILATIONS
    for timestep in (500.0, 250.0):
        inputs = {**clip_inputs, "timestep": torch.tensor([timestep])}
        assert torch.equal(call(compiled, **inputs), call(transformer, **inputs))
    assert num_graphs() == graphs
    assert "recompile_limit" not in caplog.text


def test_self_test_of_the_kernels_is_not_compiled(monkeypatch):
    seen = []
    monkeypatch.setattr(triton_works, "_passes_self_test", lambda device: seen.append(device) is not None)
    compiled = compile_as_comfyui(lambda x: x + 1 if triton_works.kernels_work(x.device) else x - 1, fullgraph=True)
    assert compiled(torch.zeros(2)).tolist() == [-1, -1]
    assert compiled(torch.zeros(2)).tolist() == [-1, -1]
    assert len(seen) == 1
