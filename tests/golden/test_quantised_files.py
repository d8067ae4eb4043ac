"""Quantised files as they are found in the wild, through our loaders: the same output as the dequantised weights, or a refusal."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.scripts.tiny_models.encodings import as_fp8_scaled, as_fp16, as_fp32, exact_fp16, mark, packed_layers
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL, TEXT_ENCODER, VAE, metadata_of
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_other_loaders import EXACT, sample, with_lora

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


def packed(weights, name):
    """The blocks' matrices as ComfyUI's own layers store them, and the weights that they stand for."""
    import comfy.quant_ops

    if name not in comfy.quant_ops.QUANT_ALGOS:
        pytest.skip("not a format of this ComfyUI")
    layout = comfy.quant_ops.get_layout_class(comfy.quant_ops.QUANT_ALGOS[name]["comfy_tensor_layout"])
    options = {"per_channel": True} if name == "int8_tensorwise" else {}
    stored, plain = as_fp16(weights), exact_fp16(weights)
    for layer in packed_layers(weights):
        values, settings = layout.quantize(weights[f"{layer}.weight"], **options)
        parts = layout.state_dict_tensors(values, settings)
        stored |= {f"{layer}.weight{suffix}": tensor for suffix, tensor in parts.items()} | {f"{layer}.comfy_quant": mark(name)}
        plain[f"{layer}.weight"] = layout.dequantize(values, settings).float()
    return stored, plain


@pytest.mark.parametrize(("name", "allowed"), [("int8_tensorwise", 0.01), ("convrot_w4a4", 0.12)])
def test_formats_that_round_the_activations_too(bridge, load, weights, name, allowed):
    """Before, convrot_w4a4 had "40 tensors of the wrong shape"."""
    stored, plain = packed(weights, name)
    found, exact = sample(bridge, load(stored)), sample(bridge, load(plain))
    assert 0 < (found - exact).norm() / exact.norm() < allowed
    assert (found - exact).norm() < 0.5 * (found - found.roll(1, -1)).norm()


def test_lora_on_packed_layers(bridge, load, weights):
    stored, plain = packed(weights, "nvfp4")
    changed, exact, without = (sample(bridge, model) for model in (with_lora(load(stored), 0.8), with_lora(load(plain), 0.8), load(plain)))
    assert 0 < (changed - exact).norm() < 0.2 * (without - exact).norm()  # ComfyUI packs the changed weights again


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("weight.quant_state.bitsandbytes__nf4", r"bitsandbytes \(NF4, FP4 or LLM\.int8\)"),
        ("qweight", "GPTQ or AWQ"),
        ("wscales", r"SVDQuant \(Nunchaku\)"),
    ],
)
def test_weights_that_other_programs_have_packed(bridge, load, weights, models, tmp_path, part, words):
    """Before: "tensors missing ... download the file again"."""
    half = weights[f"{LAYER}.weight"].flatten()[::2, None].to(torch.uint8)
    message = rf"is quantised by {words}, which ComfyUI has no layers for \(.+\.{part}\)\. Pick a bf16, fp16 or fp8_scaled file"
    with refusal(message):
        load({**weights, f"{LAYER}.weight": half, f"{LAYER}.{part}": torch.zeros(3)})
    text = load_file(models / TEXT_ENCODER)
    save_file({**text, f"encoder.block.0.layer.0.SelfAttention.q.{part}": torch.zeros(3)}, tmp_path / "text.safetensors")
    with refusal(message):
        bridge.load_text_encoder(str(tmp_path / "text.safetensors"))


def test_packed_layer_of_another_size(load, weights):
    """The shape that a mark stands for is checked, not the stored one."""
    stored, _ = packed(weights, "nvfp4")
    shorter, _ = packed({f"{LAYER}.weight": weights[f"{LAYER}.weight"][:, :128].contiguous()}, "nvfp4")
    with refusal(rf"1 tensors of the wrong shape \({LAYER}\.weight \(512, 128\) instead of \(512, 256\)\)"):
        load({**stored, **shorter})


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
    with refusal(r"holds some tensors twice, with and without words in front \(head\.modulation\)"):
        load({**{f"diffusion_model.{name}": tensor for name, tensor in weights.items()}, "head.modulation": weights["head.modulation"]})


def test_quantised_vae(bridge, models, tmp_path):
    save_file({**load_file(models / VAE), "conv1.weight_scale": torch.ones(())}, tmp_path / "vae.safetensors")
    with refusal(r"vae\.safetensors holds quantised weights, which no VAE loader reads\. Pick wan_2\.1_vae"):
        bridge.load_vae(str(tmp_path / "vae.safetensors"), "fp32")


@pytest.fixture
def mac(monkeypatch):
    """ComfyUI as it is on a Mac, up to where it would use the GPU."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("mps"))


def test_fp8_files_are_refused_on_a_mac_before_anything_is_sampled(mac, load, weights):
    with refusal(r"8-bit floats \(fp8\), which Apple's GPUs do not have. Load wan2.2_s2v_14B_bf16.safetensors instead"):
        load(as_fp8_scaled(weights))


def test_fp8_text_encoders_work_there_on_the_cpu_and_are_refused_on_the_gpu(mac, bridge, models, tmp_path, monkeypatch):
    import comfy.model_management

    path = tmp_path / "umt5.safetensors"
    save_file(as_fp8_scaled(load_file(models / TEXT_ENCODER)), path)
    bridge.loaders.read_text_encoder(str(path))
    monkeypatch.setattr(comfy.model_management, "text_encoder_device", lambda: torch.device("mps"))
    with refusal("Load umt5_xxl_fp16.safetensors instead"):
        bridge.load_text_encoder(str(path))
