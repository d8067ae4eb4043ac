"""The fp8 modes on ComfyUI's layers, computed on the CPU: bf16 and fp8_scaled files, LoRAs, the choice and the self-test of kernels."""

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
def attention(bridge):
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


# Attention


def test_fp8_attention_leaves_the_choice_of_the_user_alone(attention, caplog):
    attention._log_left_alone.cache_clear()
    plain = attention.pick_attention("comfyui", CPU)
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        assert attention.pick_attention("comfyui", CPU, float8=True) is plain
        assert attention.pick_attention("comfyui", CPU, float8=True) is plain
    assert caplog.text.count("attention: not in fp8, because the loader says so") == 1


def emulated(q, k, v, heads, factor=1.0, smooth=True):
    """What a float8 kernel computes, in float32 on rounded inputs; `factor` falsifies a scale."""
    quantise_heads = pack_module("wan_s2v_model.kernels.float8").quantise_heads
    rounded = []
    for tensor, is_smooth in ((q, False), (k, smooth), (v, False)):
        rounded.append(quantise_heads(tensor, heads, is_smooth).to(torch.float32).flatten(2))
    sdpa = pack_module("wan_s2v_model.transformer.blocks").sdpa
    return sdpa(factor * rounded[0], rounded[1], rounded[2], heads).to(q.dtype)


def failing(*_, **__):
    raise RuntimeError("no kernel image\nmore")


@pytest.mark.parametrize(
    ("kernel", "works", "message"),
    [
        (emulated, True, ""),
        (lambda q, k, v, heads: emulated(q, k, v, heads, factor=1.3), False, "is wrong by"),
        (lambda q, k, v, heads: emulated(q, k.flip(0), v, heads), False, "is wrong by"),
        (lambda q, k, v, heads: torch.full_like(q, torch.nan), False, "is wrong by nan"),
        (failing, False, "does not run here (no kernel image)"),
    ],
)
def test_self_test_of_fp8_attention(attention, caplog, kernel, works, message):
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        assert attention.computes_in_float8("a kernel", kernel, CPU) is works
    assert message in caplog.text
    assert bool(caplog.text) is not works


def exactly(q, k, v, heads):
    return pack_module("wan_s2v_model.transformer.blocks").sdpa(q, k, v, heads)


@pytest.mark.parametrize(
    ("kernel", "works", "message"),
    [
        (exactly, True, ""),
        (lambda q, k, v, heads: 1.1 * exactly(q, k, v, heads), False, "is wrong by"),
        (lambda q, k, v, heads: exactly(q, k, v, heads) + 0.1 * (k.shape[1] == 5), False, "is wrong by"),
        (lambda q, k, v, heads: torch.full_like(q, torch.nan), False, "is wrong by nan"),
        (failing, False, "does not run here (no kernel image)"),
    ],
    ids=["right", "all wrong", "few keys wrong", "nan", "failing"],
)
def test_self_test_of_exact_attention(attention, caplog, kernel, works, message):
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        assert attention.computes_attention("a kernel", kernel, CPU) is works
    assert message in caplog.text
    assert bool(caplog.text) is not works


def test_flash_attention_gets_float8_and_a_scale_for_each_head(attention, monkeypatch):
    """A stand-in of fa3-fwd that multiplies the scales back: the result is the attention, within the self-test's tolerance."""
    import sys
    from types import SimpleNamespace

    seen = []

    def flash_attn_func(q, k, v, q_descale, k_descale, v_descale):
        seen.append((q.dtype, q.shape, q_descale.shape, q_descale.dtype))
        sdpa = pack_module("wan_s2v_model.transformer.blocks").sdpa
        pairs = (q, q_descale), (k, k_descale), (v, v_descale)
        plain = [(values.float() * scale[:, None, :, None]).flatten(2) for values, scale in pairs]
        return sdpa(*plain, q.shape[2]).unflatten(-1, (q.shape[2], -1)).bfloat16()

    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", SimpleNamespace(flash_attn_func=flash_attn_func))
    assert attention.computes_in_float8("stand-in", attention._flash3_float8, CPU)
    length = attention.FEW_KEYS + 40
    assert seen == [(torch.float8_e4m3fn, (2, length, 4, 128), (2, 4), torch.float32)]


@pytest.mark.parametrize("name", ["_flash3_float8", "_sage"])
def test_few_keys_are_attended_to_exactly(attention, name):
    q, k, v = randn(1, 40, 256), randn(2, 5, 256), randn(3, 5, 256)
    expected = pack_module("wan_s2v_model.transformer.blocks").sdpa(q, k, v, 2)
    torch.testing.assert_close(getattr(attention, name)(q, k, v, 2), expected)
