"""What the doctor says of the loader's choices on a card: what acts, what to install, and the gain."""

from dataclasses import replace
from statistics import median
from types import SimpleNamespace

import pytest
from wan_s2v_pack.cli.doctor import probe
from wan_s2v_pack.cli.doctor.checks import Facts, Gpu, TorchFacts
from wan_s2v_pack.cli.doctor.speed import SHARES, speed_findings
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS
from wan_s2v_pack.wan_s2v_model.cost.choices import BOTH, EXACT, FP8, SAGE, forward_seconds

SERIES = {"RTX 30": (8, 6), "RTX 40": (8, 9), "RTX 50": (12, 0)}


def said(capability, **torch):
    facts = TorchFacts("2.11.0+cu130", gpus=(Gpu("a GPU", 24_000_000_000, capability),), triton="3.6.0", system="linux")
    findings = speed_findings(Facts(python="3.12", torch=replace(facts, **torch)))
    return {finding.topic: finding for finding in findings}


@pytest.mark.parametrize("facts", [Facts(python="3.12"), Facts(python="3.12", torch=TorchFacts("2.11.0"))])
def test_nothing_is_said_without_an_nvidia_gpu(facts):
    assert list(speed_findings(facts)) == []
    assert said(None) == {}


@pytest.mark.parametrize(
    ("system", "version", "command"),
    [
        ("win32", "2.11.0+cu130", 'pip install "triton-windows==3.6.*"'),
        ("linux", "2.9.1+cu128", 'pip install "triton==3.5.*"'),
        ("win32", "2.99.0", "pip install triton-windows"),
    ],
)
def test_triton_that_is_missing_has_its_price_and_its_package(system, version, command):
    finding = said((8, 9), triton="", system=system, version=version)["Triton"]
    assert finding.status == "warning"
    assert "about a third longer" in finding.text
    assert finding.advice.endswith(command)
    assert said((8, 9))["Triton"].status == "ok"


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ((7, 5), "no effect on this GPU, which has no fp8"),
        ((8, 6), "no effect on this GPU, which has no fp8"),
        ((8, 9), "fp8 linears: 0.79 of the time (calculated"),
        ((9, 0), "0.66 to 0.7 of the time (measured"),
        ((10, 0), "gain not known on this GPU"),
        ((12, 0), "fp8 linears: 0.81 of the time (calculated"),
    ],
)
def test_speed_says_what_it_does_here(capability, words):
    assert words in said(capability)["speed: fp8"].text


def test_hopper_is_told_of_flash_attention_3_unless_it_is_there():
    assert "pip install fa3-fwd" in said((9, 0))["speed: fp8"].advice
    assert said((9, 0), packages=("fa3_fwd_interface",))["speed: fp8"].advice == ""


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ({}, "not installed: "),
        ({"packages": ("sageattention", "xformers")}, "SageAttention: "),
        ({"has_kitchen": True}, "comfy-kitchen in int8: "),
        ({"packages": ("sageattn3",)}, "SageAttention 3 (4 bits): "),
    ],
)
def test_sage_says_what_is_there_and_how_to_get_it(there, words):
    finding = said((8, 9), **there)["attention: sage"]
    assert finding.text.startswith(words)
    assert "0.7 of the time (calculated, not measured), with fp8 linears 0.49 of the time" in finding.text
    assert ("pip install sageattention" in finding.advice) is (not there)
    assert "with fp8" not in said((8, 6), **there)["attention: sage"].text


@pytest.mark.parametrize("series", SERIES)
def test_shares_are_those_that_are_calculated(series):
    """The doctor starts without PyTorch, so it holds the results."""
    cards = [forward_seconds(card) for card in CARDS if card.name.startswith(series)]
    for share, choices in zip(SHARES[SERIES[series]], ((FP8,), (SAGE,), (BOTH, SAGE)), strict=True):
        choice = next((choice for choice in choices if choice in cards[0]), EXACT)
        assert share == pytest.approx(median(seconds[choice] / seconds[EXACT] for seconds in cards), abs=0.01)


@pytest.mark.parametrize(
    ("kitchen", "has"),
    [(SimpleNamespace(int8_attention_is_available=lambda: True), True), (SimpleNamespace(), False), (None, False)],
)
def test_probe_asks_comfy_kitchen(monkeypatch, kitchen, has):
    monkeypatch.setattr(probe, "try_import", lambda name: (kitchen, ""))
    assert probe.has_kitchen() is has
