"""What the doctor asks PyTorch, installed packages and ComfyUI itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from wan_s2v_pack.cli.doctor import facts, probe
from wan_s2v_pack.cli.doctor.checks import RuntimeFacts


def test_probe_sees_the_gpu():
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=5, major=9, minor=0)
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_properties=lambda _: properties)
    switches = SimpleNamespace(cudnn_sdp_enabled=lambda: True, flash_sdp_enabled=lambda: False)
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"), backends=SimpleNamespace(cuda=switches))
    assert probe.gpus(torch) == [{"name": "NVIDIA H100", "memory_bytes": 5, "capability": [9, 0]}]
    assert probe.accelerator(torch) == "cuda"
    assert probe.kernels(torch) == ["cuDNN"]
    torch.version.cuda = None  # ROCm
    assert probe.gpus(torch)[0]["capability"] is None


@pytest.mark.parametrize("count", [0, 1])
def test_probe_finds_no_links_of_less_than_two_gpus(count):
    assert probe.links(SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count))) == []


def test_probe_tells_broken_from_absent_packages(monkeypatch, tmp_path):
    (tmp_path / "flash_attn.py").write_text("raise OSError('undefined symbol: x\\nmore')", encoding="utf-8")
    (tmp_path / "sageattention.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(probe, "ATTENTION_PACKAGES", ("flash_attn", "sageattention", "surely_not_installed"))
    assert probe.attention_packages() == {"packages": ["sageattention"], "broken": {"flash_attn": "undefined symbol: x"}}
    for name in ("flash_attn", "sageattention"):
        sys.modules.pop(name, None)


LATER_COMFYUI = {  # with rules of its own for dynamic VRAM
    "main.py": """
import logging, sys
import comfy.memory_management
assert "--disable-all-custom-nodes" in sys.argv
comfy.memory_management.aimdo_enabled = {dynamic}
if not {dynamic}:
    logging.warning("Old driver. DynamicVRAM needs ROCm 7.14. Falling back to legacy.")
""",
    "comfy/memory_management.py": "aimdo_enabled = False",
    "comfy/model_management.py": """
from types import SimpleNamespace
vram_state, MAX_PINNED_MEMORY = SimpleNamespace(name="NORMAL_VRAM"), -1
get_torch_device = lambda: SimpleNamespace(type="xpu")
get_torch_device_name = lambda device: "an Arc"
""",
    "comfy/ldm/modules/attention.py": "def optimized_attention(): pass",
}


@pytest.mark.parametrize(("dynamic", "why"), [(True, ""), (False, "Old driver. DynamicVRAM needs ROCm 7.14")])
def test_comfyui_itself_says_what_it_decides(tmp_path, dynamic, why):
    for name, text in LATER_COMFYUI.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{dynamic}", str(dynamic)))
    runtime, _, _ = facts.probe_comfyui(tmp_path, [])
    assert runtime == RuntimeFacts(dynamic, why, "xpu", "an Arc", "NORMAL_VRAM", "optimized_attention", -1)
