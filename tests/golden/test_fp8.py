"""The fp8 modes on ComfyUI's layers, computed on the CPU: bf16 and fp8_scaled files, LoRAs, and where there is no fp8."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL, LAYOUTS
from wan_s2v_pack.tests.golden.comfyui import comfyui_path, pack_module

pytestmark = pytest.mark.comfy

OPTIONS = {"weight_dtype": "default", "precision": "official", "attention": "comfyui"}
LINEARS = "fp8 linears"
CPU = torch.device("cpu")
SCALED = "dit_fp8_scaled"
LAYER = "blocks.1.ffn.2"


@pytest.fixture(scope="module")
def fp8(bridge):
    return pack_module("wan_s2v_model.comfy_bridge.kernels")


@pytest.fixture(scope="module")
def files(bridge, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFYUI_PATH", str(comfyui_path()))
        make_tiny_models(folder, [SCALED])
    return {"bf16": folder / DIFFUSION_MODEL, SCALED: folder / LAYOUTS[SCALED].pick}


@pytest.fixture
def everywhere(fp8, monkeypatch):
    """As if every device could multiply float8."""
    monkeypatch.setattr(fp8, "_has_float8", lambda device: True)


def randn(seed, *shape):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def forward(model):
    """One call of the loaded model, as the sampler makes it."""
    inputs = {
        "c_crossattn": randn(4, 9, 64),
        "audio_embed": randn(1, 25, 32, 8),
        "reference_latent": randn(2, 16, 1, 8, 8),
        "reference_motion": randn(3, 16, 19, 8, 8),
    }
    with torch.inference_mode():
        options = dict(model.model_options["transformer_options"])
        return model.model.apply_model(randn(5, 16, 2, 8, 8), torch.tensor([0.7]), **inputs, transformer_options=options)


def relative_error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


@pytest.mark.parametrize("layout", ["bf16", SCALED])
def test_fp8_is_close_to_exact_and_not_the_same(bridge, files, everywhere, layout):
    path = str(files[layout])
    exact = forward(bridge.load_diffusion_model(path, OPTIONS))
    fast = forward(bridge.load_diffusion_model(path, {**OPTIONS, "speed": LINEARS}))
    assert torch.isfinite(fast).all()
    assert 1e-4 < relative_error(fast, exact) < 0.1


def test_without_such_a_gpu_it_is_exact_and_the_log_says_so(bridge, fp8, files, caplog):
    path = str(files["bf16"])
    fp8._has_float8.cache_clear()
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        fast = forward(bridge.load_diffusion_model(path, {**OPTIONS, "speed": LINEARS}))
    assert torch.equal(fast, forward(bridge.load_diffusion_model(path, OPTIONS)))
    assert caplog.text.count("speed: fp8 needs an NVIDIA GPU of compute capability 8.9 or higher") == 1


def test_exact_is_the_default_and_asks_nothing(bridge, fp8, files, monkeypatch, caplog):
    monkeypatch.setattr(fp8, "_has_float8", lambda device: pytest.fail("asked"))
    path = str(files["bf16"])
    plain = forward(bridge.load_diffusion_model(path, OPTIONS))
    assert torch.equal(plain, forward(bridge.load_diffusion_model(path, {**OPTIONS, "speed": "exact"})))
    assert caplog.text == ""


def test_stored_float8_weights_are_used_as_they_are(bridge, fp8, files):
    model = bridge.load_diffusion_model(str(files[SCALED]), {**OPTIONS, "speed": LINEARS})
    layer = model.model.diffusion_model.get_submodule(LAYER)
    stored = load_file(files[SCALED])
    with fp8.comfy_float8_weights(layer, layer.weight.dtype, CPU) as (rows, bias):
        assert torch.equal(rows.values.float(), stored[f"{LAYER}.weight"].float())
        assert torch.equal(rows.scale, stored[f"{LAYER}.scale_weight"].float().reshape(1, 1).expand_as(rows.scale))
        assert rows.scale.is_contiguous()
        torch.testing.assert_close(bias.float(), stored[f"{LAYER}.bias"].float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("layout", ["bf16", SCALED])
def test_lora_is_in_the_float8_weight(bridge, fp8, files, layout):
    import comfy.model_management
    import comfy.sd

    model = bridge.load_diffusion_model(str(files[layout]), {**OPTIONS, "speed": LINEARS})
    layer = model.model.diffusion_model.get_submodule(LAYER)
    down, up = randn(6, 4, layer.in_features)[0], randn(7, layer.out_features, 4)[0]
    lora = {f"diffusion_model.{LAYER}.lora_A.weight": 0.1 * down, f"diffusion_model.{LAYER}.lora_B.weight": 0.1 * up}
    with fp8.comfy_float8_weights(layer, torch.float32, CPU) as (rows, _):
        before = rows.to(torch.float32)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    comfy.model_management.load_models_gpu([patched])
    with fp8.comfy_float8_weights(layer, torch.float32, CPU) as (rows, _):
        change = rows.to(torch.float32) - before
    comfy.model_management.unload_all_models()
    expected = 0.01 * up @ down
    assert relative_error(change, expected) < 0.35  # both sides are rounded to float8
    assert float(expected.norm()) > 0.1 * float(before.norm())
