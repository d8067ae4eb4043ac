"""What a server tells of its device."""

import pytest
from wan_s2v_pack.cli.comfyui.machine import Machine, machine_of


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("cuda:0 NVIDIA GeForce RTX 3090 : cudaMallocAsync", "NVIDIA GeForce RTX 3090"),
        ("cuda:1 NVIDIA H100 80GB HBM3 : native", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090"),
        ("", ""),
    ],
)
def test_name_is_that_of_the_driver(name, device):
    stats = {"system": {"ram_total": 2}, "devices": [{"name": name, "type": "cuda", "vram_total": 1}]}
    assert machine_of(stats) == Machine(device, 1, 2)


@pytest.mark.parametrize(("kind", "is_host"), [("cpu", True), ("mps", True), ("xpu", False)])
def test_some_compute_in_main_memory(kind, is_host):
    stats = {"system": {"ram_total": 2}, "devices": [{"name": kind, "type": kind, "vram_total": 2}, {}]}
    assert machine_of(stats).is_host == is_host
