"""The network of a live video inside ComfyUI: its memory management, its LoRAs, and the MODELs of other loaders."""

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from wan_s2v_pack.scripts.tiny_models import loras as tiny_loras
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.tiny_model import load_native
from wan_s2v_pack.wan_s2v_model.transformer.causal import CausalVideo
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer
from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement

pytestmark = pytest.mark.comfy
SIZE = 8, 8


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def velocities(video, blocks=2):
    video.set_anchor(noise(1, 16, 1, *SIZE, seed=1), noise(1, 16, 19, *SIZE, seed=2), noise(1, 6, 64, seed=3))
    sound = noise(25, 32, 12, seed=4)
    return torch.stack([video.forward(noise(16, 3, *SIZE, seed=5 + block), 0, 857.69, 3 * block, 9, sound) for block in range(blocks)])


def in_comfyui(bridge, model, vae, **options):
    with bridge.live_team(model, vae, bridge.LivePlan(*SIZE, steps=1, **options)) as team:
        return velocities(team.networks[0])


def test_as_without_comfyui(bridge, model, vae):
    expected = velocities(CausalVideo(model.model.diffusion_model, SIZE, steps=[0]))
    torch.testing.assert_close(in_comfyui(bridge, model, vae), expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(in_comfyui(bridge, model, vae), in_comfyui(bridge, model, vae, placement=Placement(on_host=True)))


def test_on_the_layers_of_comfyuis_own_model(bridge, model, vae, checkpoint):
    torch.testing.assert_close(
        in_comfyui(bridge, load_native(bridge, checkpoint), vae), in_comfyui(bridge, model, vae), atol=1e-5, rtol=1e-4
    )


def test_live_avatars_lora_is_noted_on_the_model(bridge, model, vae, checkpoint, tmp_path, caplog):
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint).items()}
    made = tiny_loras.write_lora("live_avatar", shapes, tmp_path / "liveavatar.safetensors")
    distilled, report = bridge.apply_lora(model, str(tmp_path / "liveavatar.safetensors"), 1.0)
    assert "rank 8 times 0.5" in report
    found = in_comfyui(bridge, distilled.clone(), vae)
    assert "has no LoRA of Live-Avatar" not in caplog.text
    plain = in_comfyui(bridge, model, vae)
    assert "has no LoRA of Live-Avatar" in caplog.text
    expected = CausalVideo(merged(model.model.diffusion_model, made), SIZE, steps=[0])
    torch.testing.assert_close(found, velocities(expected), atol=1e-4, rtol=1e-3)
    assert (found - plain).abs().max() > 0.01


def test_the_other_sampler_warns_of_it(bridge, model, checkpoint, tmp_path, caplog):
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint).items()}
    tiny_loras.write_lora("live_avatar", shapes, tmp_path / "liveavatar.safetensors")
    settings = bridge.SamplerSettings(steps=1, cfg=1.0, shift=3.0, solver="unipc")
    for strength, is_warned in ((0.0, False), (1.0, True)):
        caplog.clear()
        bridge.ClipSampler(bridge.apply_lora(model, str(tmp_path / "liveavatar.safetensors"), strength)[0], [], [], settings, seed=1)
        assert ("the MODEL has Live-Avatar's LoRA" in caplog.text) == is_warned


def test_what_was_taken_off_the_gpu_is_loaded_again_with_its_lora(bridge, model, vae, checkpoint, tmp_path):
    """ComfyUI takes a LoRA out of the weights of a model that it unloads, as a VAE may make it do that needs the room."""
    import comfy.model_management

    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint).items()}
    tiny_loras.write_lora("live_avatar", shapes, tmp_path / "liveavatar.safetensors")
    distilled, _ = bridge.apply_lora(model, str(tmp_path / "liveavatar.safetensors"), 1.0)
    expected = in_comfyui(bridge, distilled, vae)
    with bridge.live_team(distilled, vae, bridge.LivePlan(*SIZE, steps=1)) as team:
        velocities(team.networks[0])
        comfy.model_management.unload_all_models()
        assert torch.equal(velocities(team.networks[0]), expected)


def test_a_copy_that_was_taken_off_its_gpu_is_not_used(bridge, model, vae, on):
    """It would compute without its LoRA; and it is not loaded by a thread of its own."""
    import comfy.model_management

    with bridge.live_team(on(model, 2), vae, bridge.LivePlan(*SIZE, steps=2)) as team:
        comfy.model_management.unload_all_models()
        team.networks[0]._engine.compute()
        with pytest.raises(RuntimeError, match="was taken off its GPU"):
            team.networks[1]._engine.compute()


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_rings_in_main_memory_are_pinned_by_comfyui_and_given_back(bridge, model, vae, monkeypatch, is_cut_off):
    import comfy.model_management

    pinned, given_back = [], []
    monkeypatch.setattr(comfy.model_management, "pin_memory", lambda tensor: pinned.append(tensor) or len(pinned) > 1)
    monkeypatch.setattr(comfy.model_management, "unpin_memory", given_back.append)
    plan = bridge.LivePlan(*SIZE, steps=2, placement=Placement(on_host=True))
    with pytest.raises(KeyboardInterrupt) if is_cut_off else nullcontext(), bridge.live_team(model, vae, plan):
        assert len(pinned) == 2 * len(model.model.diffusion_model.blocks)
        assert not given_back
        if is_cut_off:
            raise KeyboardInterrupt
    assert [id(tensor) for tensor in given_back] == [id(tensor) for tensor in pinned[1:]]


def test_weights_that_come_on_demand_are_fetched_a_layer_ahead(bridge, model, vae, monkeypatch):
    """As ComfyUI says in each call of its own sampling, which live video does not go through."""
    module, told = pack_module("wan_s2v_model.comfy_bridge.live"), []
    just_in_time = module.layers_just_in_time
    monkeypatch.setattr(module, "layers_just_in_time", lambda *given: told.append(given[2]) or just_in_time(*given))
    with bridge.live_team(model, vae, bridge.LivePlan(*SIZE, steps=1)) as team:
        velocities(team.networks[0], blocks=1)
    assert [options["prefetch_dynamic_vbars"] for options in told] == [False, False]
    monkeypatch.setattr(type(model), "is_dynamic", lambda patcher: True)
    assert module._options(model)["prefetch_dynamic_vbars"]


def merged(transformer, changes):
    """A copy with the changes of a LoRA in its weights."""
    other = WanS2VTransformer(transformer.config)
    other.load_state_dict(tiny_loras.merge({name: tensor.float() for name, tensor in transformer.state_dict().items()}, changes, 1.0))
    return other.requires_grad_(False)


def test_cancelled_between_two_layers(bridge, model, vae):
    import comfy.model_management

    comfy.model_management.interrupt_current_processing(True)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            in_comfyui(bridge, model, vae)
    finally:
        comfy.model_management.interrupt_current_processing(False)
