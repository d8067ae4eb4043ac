"""Quantised files as they are found in the wild, through our loaders: the same output as the dequantised weights, or a refusal."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL, TEXT_ENCODER, VAE, as_fp8_scaled, as_fp32, metadata_of
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_other_loaders import EXACT, sample

pytestmark = pytest.mark.comfy

KEPT = ("norm", "bias", "time_", "modulation", "text_embedding")  # in bf16 by those who quantise all other weights
LAYER = "blocks.0.ffn.0"


@pytest.fixture(scope="module")
def weights(models):
    return as_fp32(load_file(models / DIFFUSION_MODEL))


@pytest.fixture
def load(bridge, models, tmp_path):
    """Load a transformer of these tensors."""

    def run(tensors, **metadata):
        path = tmp_path / "found.safetensors"
        contiguous = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(contiguous, path, metadata={**metadata_of(models / DIFFUSION_MODEL), **metadata})
        return bridge.load_diffusion_model(str(path), EXACT)

    return run


def refusal(message):
    return pytest.raises(pack_module("wan_s2v_model.checkpoints.s2v").CheckpointError, match=message)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_weight_quantised_convolutions_too(bridge, load, weights, dtype):
    stored, plain = {"scaled_fp8": torch.zeros(2, dtype=dtype)}, {}
    for name, tensor in weights.items():
        if name.endswith(".weight") and tensor.ndim >= 2 and not any(word in name for word in KEPT):
            scale = tensor.abs().max() / torch.finfo(dtype).max
            stored[name], stored[name.removesuffix("weight") + "scale_weight"] = (tensor / scale).to(dtype), scale
            plain[name] = stored[name].float() * scale
        else:
            stored[name] = tensor.bfloat16()
            plain[name] = stored[name].float()
    assert stored["patch_embedding.weight"].dtype == stored["audio_injector.injector.0.q.weight"].dtype == dtype
    assert torch.equal(sample(bridge, load(stored)), sample(bridge, load(plain)))


def test_missing_scales(bridge, load, weights, models, tmp_path):
    stored = as_fp8_scaled(weights)
    del stored[f"{LAYER}.scale_weight"]
    with refusal(rf"found\.safetensors is incomplete: 1 tensors without their scale \({LAYER}\.weight\)"):
        load(stored)
    text = as_fp8_scaled(load_file(models / TEXT_ENCODER))
    name = next(name for name in text if name.endswith(".scale_weight"))
    del text[name]
    save_file(text, tmp_path / "text.safetensors")
    with refusal(r"text\.safetensors is incomplete: 1 tensors without their scale"):
        bridge.load_text_encoder(str(tmp_path / "text.safetensors"))


@pytest.mark.parametrize("description", ["", "{", "[]", "{}", '{"layers": []}'])
def test_description_that_cannot_be_read(load, weights, description):
    with refusal("its description of quantised weights cannot be read"):
        load(as_fp8_scaled(weights), _quantization_metadata=description)


def test_input_scale_of_several_numbers(load, weights):
    with refusal("its description of quantised weights cannot be read"):
        load({**as_fp8_scaled(weights), f"{LAYER}.scale_input": torch.ones(4)})


def test_weights_that_are_there_twice(load, weights):
    with refusal(r"holds some tensors twice, with and without diffusion_model\. in front"):
        load({**{f"diffusion_model.{name}": tensor for name, tensor in weights.items()}, "head.modulation": weights["head.modulation"]})


def test_quantised_vae(bridge, models, tmp_path):
    save_file({**load_file(models / VAE), "conv1.weight_scale": torch.ones(())}, tmp_path / "vae.safetensors")
    with refusal(r"vae\.safetensors holds quantised weights, which no VAE loader reads\. Pick wan_2\.1_vae"):
        bridge.load_vae(str(tmp_path / "vae.safetensors"), "fp32")
