"""When the sampler shares the self attention of the first block between prompts: as often as it is the same, never otherwise."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import STEPS, clip_sampler, sample_clip
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


@pytest.fixture
def count(bridge, monkeypatch):
    """Sample a clip; return its latents and how many entries of batches went through the self attention of the first block."""
    layers = pack_module("wan_s2v_model.transformer.blocks")
    attend, entries = layers.Block.attend, []

    def noted(block, stream, e, rope, dtype, compute, *arguments):
        if compute.transformer_options["block_index"] == 0:
            entries.append(len(stream.x))
        return attend(block, stream, e, rope, dtype, compute, *arguments)

    monkeypatch.setattr(layers.Block, "attend", noted)

    def run(sampler):
        entries.clear()
        return sample_clip(sampler), sum(entries)

    return run


def alone(monkeypatch):
    """Nothing is shared."""
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.model"), "_shared_attention", lambda *_: None)


@pytest.mark.parametrize("audio_cfg", [None, 6.0], ids=["two conditionings", "three conditionings"])
def test_once_in_each_step(bridge, model, count, monkeypatch, audio_cfg):
    audio = audio_cfg and pack_module("wan_s2v_model.sampling.guidance").AudioGuidance(audio_cfg, 0.0, 1.0, 1.0)
    shared, entries = count(clip_sampler(bridge, model, audio=audio))
    assert entries == STEPS
    alone(monkeypatch)
    latents, entries = count(clip_sampler(bridge, model, audio=audio))
    assert entries == STEPS * (3 if audio_cfg else 2)
    torch.testing.assert_close(shared, latents, rtol=1e-5, atol=1e-5)


def test_every_clip_has_its_own(bridge, model, monkeypatch):
    sampler = clip_sampler(bridge, model)
    shared = [sample_clip(sampler, clip) for clip in range(2)]
    alone(monkeypatch)
    for clip, latents in enumerate(shared):
        torch.testing.assert_close(latents, sample_clip(clip_sampler(bridge, model), clip), rtol=1e-5, atol=1e-5)


def replaced(model, conditions):
    model.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "double_block", 0)


def overridden(model, conditions):
    model.model_options["transformer_options"]["optimized_attention_override"] = lambda attend, *args, **kwargs: attend(*args, **kwargs)


@pytest.mark.parametrize("change", [replaced, overridden])
def test_not_where_another_node_may_change_it(bridge, model, count, change):
    model = model.clone()
    sampler = clip_sampler(bridge, model)
    change(sampler.model, sampler.conditions)
    assert count(sampler)[1] == 2 * STEPS


def test_not_where_a_prompt_has_hooks(bridge, model, count):
    import comfy.hooks

    assert count(clip_sampler(bridge, model, {"hooks": comfy.hooks.HookGroup()}))[1] == 2 * STEPS


def test_not_where_memory_is_short(bridge, model, count, monkeypatch):
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.model"), "ROOMY_BYTES", 2**60)
    assert count(clip_sampler(bridge, model))[1] == 2 * STEPS
