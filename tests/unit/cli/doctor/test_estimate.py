"""`doctor --estimate`: how long half a minute takes here, or on the server that is named."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from wan_s2v_pack.cli import doctor
from wan_s2v_pack.cli.comfyui.machine import Machine
from wan_s2v_pack.cli.doctor import estimate
from wan_s2v_pack.cli.doctor.checks import Gpu
from wan_s2v_pack.cli.doctor.estimate import estimate_findings, machine_in
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS, measured_rates
from wan_s2v_pack.wan_s2v_model.cost.outlook import DRAFT, half_minute_on
from wan_s2v_pack.wan_s2v_model.time_text import rough_duration

from .test_doctor import HEALTHY, with_server, with_torch

RTX_3060 = Gpu("NVIDIA GeForce RTX 3060", 12_600_000_000, (8, 6))
SMALL = replace(with_torch(gpus=(RTX_3060,)), ram_bytes=32_000_000_000)


def texts(facts):
    return {finding.topic: (finding.status, f"{finding.text} {finding.advice}") for finding in estimate_findings(facts)}


@pytest.fixture(autouse=True)
def no_gpu_here(monkeypatch):
    monkeypatch.setattr(estimate, "measured_here", lambda _: None)


def test_card_of_the_table():
    (status, time), memory = texts(SMALL).values()
    card = next(card for card in CARDS if card.name == "RTX 3060")
    draft = rough_duration(half_minute_on(card)[DRAFT].seconds)
    assert status == "ok"
    assert time.startswith(f"of speech at 832x480 on NVIDIA GeForce RTX 3060: draft (4 steps) {draft}; reference (40 steps) about ")
    assert memory == ("ok", "4 GB of GPU memory at least, 17 GB to keep all weights there; 18 GB of RAM for full speed ")


def test_measured_product_of_this_machine_counts_more(monkeypatch):
    monkeypatch.setattr(estimate, "measured_here", lambda machine: measured_rates(machine.device, 0.5 * 0.93 * 25.48e12))
    time = texts(SMALL)["Half a minute"][1]
    assert "draft (4 steps) about 95 min; " in time
    assert time.endswith("calculated from a product on this card ")
    laptop = with_torch(gpus=(replace(RTX_3060, name="NVIDIA GeForce RTX 3070 Laptop GPU"),))
    assert "on NVIDIA GeForce RTX 3070 Laptop GPU: draft" in texts(laptop)["Half a minute"][1]


def test_server_is_not_measured_by_the_gpu_of_this_machine(monkeypatch):
    monkeypatch.setattr(estimate, "measured_here", lambda _: pytest.fail("it measured"))
    there = Machine("NVIDIA GeForce RTX 4090", 24e9, 64e9)
    assert texts(with_server(machine=there))["Half a minute"][1].endswith("calculated from what its maker states ")


def test_card_that_is_not_in_the_table():
    found = texts(with_torch(gpus=(replace(RTX_3060, name="NVIDIA GeForce RTX 3070 Laptop GPU"),)))
    assert "RTX 3070 Laptop GPU is not known here" in found["Half a minute"][1]


@pytest.mark.parametrize(
    ("facts", "status", "text"),
    [
        (with_torch(gpus=(replace(RTX_3060, memory_bytes=3_000_000_000),)), "problem", "has 3.0 GB"),
        (replace(SMALL, ram_bytes=16_000_000_000), "warning", "There are 16 GB of RAM"),
    ],
)
def test_too_little_memory(facts, status, text):
    found = texts(facts)["Needs"]
    assert found[0] == status
    assert text in found[1]


def test_server_counts_before_this_machine():
    there = Machine("NVIDIA GeForce RTX 4090", 24e9, 64e9)
    assert machine_in(with_server(machine=there)) == there
    assert machine_in(with_server(error="no answer")) is None
    assert machine_in(HEALTHY).device == "NVIDIA H100"


@pytest.mark.parametrize("facts", [with_torch(gpus=()), with_server(machine=Machine("cpu", 1, 1, is_host=True))])
def test_no_gpu(facts):
    assert texts(facts) == {
        "Half a minute": ("warning", "no GPU to estimate for On a CPU it takes days. With --server, a ComfyUI with a GPU is looked at.")
    }


def test_python_without_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "wan_s2v_pack.cli.doctor.estimate", None)
    (finding,) = doctor.estimated(SMALL)
    assert finding.status == "warning"
    assert "Python that runs ComfyUI" in finding.advice
