"""What is chosen on GPUs that nobody has here: PyTorch tells of their capabilities, everything else is ComfyUI and this pack."""

from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_other_loaders import EXACT, sample

pytestmark = pytest.mark.comfy
DEVICE = torch.device("cuda", 0)
PARAMETERS = int(16.3e9)  # of the real model
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
GB = 10**9
# name -> major, minor, has bfloat16 in hardware, AMD's architecture, and the types in which a bf16 file is kept and computed
CARDS = {
    "GeForce GTX 1080": (6, 1, False, "", (FP16, FP32)),  # as ComfyUI has it on Linux, where fp16 is slower there
    "GeForce GTX 1660 Ti": (7, 5, False, "", (FP16, FP32)),
    "GeForce RTX 2080 Ti": (7, 5, False, "", (FP16, FP16)),
    "GeForce RTX 3060": (8, 6, True, "", (BF16, BF16)),
    "GeForce RTX 4090": (8, 9, True, "", (BF16, BF16)),
    "AMD Radeon RX 6800": (10, 3, True, "gfx1030", (FP16, FP16)),
    "AMD Radeon RX 7900 XTX": (11, 0, True, "gfx1100", (BF16, BF16)),
}


@pytest.fixture(params=CARDS)
def card(bridge, request, monkeypatch):
    """PyTorch and ComfyUI with one of these cards; the types that are expected."""
    import comfy.ldm.modules.attention as attention
    import comfy.model_management as management

    major, minor, has_bf16, architecture, types = CARDS[request.param]
    facts = SimpleNamespace(name=request.param, major=major, minor=minor, gcnArchName=architecture, total_memory=24 * GB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (major, minor))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: has_bf16)
    monkeypatch.setattr(torch.version, "hip", "6.4" if architecture else None)
    monkeypatch.setattr(torch.version, "cuda", None if architecture else "13.0")
    monkeypatch.setattr(management, "WINDOWS", False)
    monkeypatch.setattr(management, "cpu_state", management.CPUState.GPU)
    monkeypatch.setattr(management, "get_torch_device", lambda: DEVICE)
    monkeypatch.setattr(management, "maximum_vram_for_weights", lambda *_: 20 * GB)
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    kernels = pack_module("wan_s2v_model.comfy_bridge.kernels")
    for choice in vars(kernels).values():
        if hasattr(choice, "cache_clear"):
            choice.cache_clear()
    yield types
    for choice in vars(kernels).values():
        if hasattr(choice, "cache_clear"):
            choice.cache_clear()


def test_types_are_those_that_the_card_computes_with(card, bridge, monkeypatch):
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "calculate_parameters", lambda *_: PARAMETERS)
    config = bridge.model.S2VModelConfig({"image_model": "wan2.1", "model_type": "s2v"})
    config.quant_config = None
    bridge.loaders._set_dtypes(config, {"weight": torch.zeros(1, dtype=BF16)}, "default", DEVICE)
    stored, cast = config.unet_config["dtype"], config.manual_cast_dtype
    assert (stored, cast or stored) == card


def test_nothing_of_newer_cards_is_chosen(card, request, bridge):
    """Their attention is ComfyUI's and their products are exact, without a trial on the GPU."""
    import comfy.ldm.modules.attention as attention

    kernels = pack_module("wan_s2v_model.comfy_bridge.kernels")
    assert kernels.pick_attention("auto", DEVICE) is attention.attention_pytorch
    assert kernels.pick_linears("exact", DEVICE, card[1]) is kernels.EXACT


@pytest.mark.parametrize("precision", ["official", "fast"])
def test_a_clip_in_fp16_is_that_in_fp32(bridge, models, precision, monkeypatch):
    """Turing, Pascal and the older AMD cards compute so; the first clip of a run, with all its solver steps and both prompts."""
    import comfy.model_management

    path = str(models / DIFFUSION_MODEL)
    expected = sample(bridge, bridge.load_diffusion_model(path, EXACT))
    monkeypatch.setattr(comfy.model_management, "should_use_fp16", lambda *_, **__: True)  # else the CPU stores it only
    half = bridge.load_diffusion_model(path, {**EXACT, "weight_dtype": "fp16", "precision": precision})
    assert half.model.get_dtype_inference() == FP16
    found = sample(bridge, half)
    assert torch.isfinite(found).all()
    error = (found - expected).norm() / expected.norm()
    assert 0 < error < 5e-3
