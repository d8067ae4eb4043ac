"""The speed of a machine, measured here or stated of a card."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.cli.comfyui import speed
from wan_s2v_pack.cli.comfyui.machine import Machine
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS, Modes, calculated_rates

CARD = next(card for card in CARDS if card.name == "RTX 3060")
MACHINE = Machine("NVIDIA GeForce RTX 3060", 12e9, 32e9)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that reaches this rate in a product."""

    def pretend(rate):
        def measure(*_):
            if rate is None:
                raise torch.OutOfMemoryError("no memory")
            return rate

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(speed, "measure_product", measure)

    return pretend


def test_measured_product_decides(gpu):
    gpu(0.5 * 0.93 * CARD.bf16)
    assert speed.measured_here(MACHINE).attention == 0.5 * calculated_rates(CARD).attention
    assert speed.measured_here(MACHINE, Modes(2)).vae > speed.measured_here(MACHINE).vae


def test_nothing_is_measured_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert speed.measured_here(MACHINE) is None


def test_nothing_is_measured_on_a_processor_or_without_memory(gpu):
    gpu(None)
    assert speed.measured_here(MACHINE) is None
    gpu(1e12)
    assert speed.measured_here(replace(MACHINE, is_host=True)) is None


def test_stated():
    assert speed.stated(MACHINE, Modes(2)) == calculated_rates(CARD, Modes(2))
    assert speed.stated(replace(MACHINE, device="NVIDIA GeForce RTX 3060 Laptop GPU")) is None
