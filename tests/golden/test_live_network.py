"""The network of a live video inside ComfyUI: its memory management, its LoRAs, and the MODELs of other loaders."""

import pytest
import torch
from safetensors.torch import load_file
from wan_s2v_pack.scripts.tiny_models import loras as tiny_loras
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
    with bridge.live_network(model, vae, bridge.LivePlan(*SIZE, steps=range(1), **options)) as video:
        return velocities(video)


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


def test_other_gpus_are_said_to_do_nothing(bridge, model, vae, caplog):
    several = model.clone()
    several.set_additional_models("multigpu", [model.clone()])
    in_comfyui(bridge, several, vae)
    assert "a live video is sampled on one GPU" in caplog.text


def test_the_other_sampler_warns_of_it(bridge, model, checkpoint, tmp_path, caplog):
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(checkpoint).items()}
    tiny_loras.write_lora("live_avatar", shapes, tmp_path / "liveavatar.safetensors")
    settings = bridge.SamplerSettings(steps=1, cfg=1.0, shift=3.0, solver="unipc")
    for strength, is_warned in ((0.0, False), (1.0, True)):
        caplog.clear()
        bridge.ClipSampler(bridge.apply_lora(model, str(tmp_path / "liveavatar.safetensors"), strength)[0], [], [], settings, seed=1)
        assert ("the MODEL has Live-Avatar's LoRA" in caplog.text) == is_warned


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
