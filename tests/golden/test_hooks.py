"""LoRAs that another node hangs on the prompts, with strengths that change from step to step."""

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import randn, sample_clip
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

DIM, RANK, NUM_BLOCKS = 256, 4, 3
LAYERS = ("self_attn.q", "cross_attn.k", "cross_attn.v")  # of which the last two work once per clip
ALWAYS, NEVER, LATE = [(1.0, 0.0)], [(0.0, 0.0)], [(0.0, 0.0), (1.0, 0.3)]  # strength, from which share of the steps


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


def lora():
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(NUM_BLOCKS):
        for layer in LAYERS:
            key = f"diffusion_model.blocks.{block}.{layer}"
            tensors[f"{key}.lora_up.weight"] = 0.3 * torch.randn(DIM, RANK, generator=generator)
            tensors[f"{key}.lora_down.weight"] = 0.3 * torch.randn(RANK, DIM, generator=generator)
    return tensors


def make_sampler(bridge, model, keyframes):
    """With the LoRA on both prompts; without it for None."""
    import comfy.hooks

    texts = [[[randn(seed, 9, 64), {}]] for seed in (4, 6)]
    if keyframes is not None:
        group, frames = comfy.hooks.create_hook_lora(lora(), 1.0, 0.0), comfy.hooks.HookKeyframeGroup()
        for strength, start in keyframes:
            frames.add(comfy.hooks.HookKeyframe(strength, start))
        group.set_keyframes_on_hooks(frames)
        texts = [comfy.hooks.set_hooks_for_conditioning(text, group) for text in texts]
    settings = bridge.SamplerSettings(steps=4, cfg=4.5, shift=3.0, solver="unipc")
    return bridge.ClipSampler(model, *texts, settings, seed=42)


def test_strength_that_changes_while_a_clip_is_sampled(bridge, model, monkeypatch):
    plain, never, late, always = (sample_clip(make_sampler(bridge, model, keyframes)) for keyframes in (None, NEVER, LATE, ALWAYS))
    torch.testing.assert_close(never, plain, atol=1e-5, rtol=1e-5)
    assert (late - plain).abs().mean() > 0.01
    assert (always - late).abs().mean() > 0.01
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.model"), "_memory_of", lambda *_: lambda build: build())
    assert torch.equal(late, sample_clip(make_sampler(bridge, model, LATE)))


def test_forward_runs_on_the_copy_that_comfyui_hooks_with_dynamic_vram(bridge, model):
    """There it is another model, made of the same file. Here, without a GPU, a deep copy stands for it."""
    dynamic, delegate = model.clone(), model.clone(force_deepcopy=True)
    dynamic.is_dynamic, dynamic.get_non_dynamic_delegate = lambda: True, lambda: delegate
    for keyframes, used in ((None, model), (ALWAYS, delegate)):
        sampler = make_sampler(bridge, dynamic, keyframes)
        assert sampler.model.model is used.model
        transformer = pack_module("wan_s2v_model.comfy_bridge.model").forward_of(sampler.model).transformer
        assert transformer.blocks[0].self_attn.q is used.model.diffusion_model.blocks[0].self_attn.q
