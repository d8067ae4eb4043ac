"""What samplers say of how a MODEL is computed, on one GPU and on several that differ, and in live video."""

from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_attention_choice import comfy_runs, kernels, load  # noqa: F401
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler
from wan_s2v_pack.tests.golden.test_fp8 import files  # noqa: F401
from wan_s2v_pack.wan_s2v_model.sampling.progress import Progress
from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement

pytestmark = pytest.mark.comfy
OTHER = torch.device("cpu", 1)
NO_FP8 = "speed: fp8 linears has no effect on linear layers: this device has no fp8 (GeForce 40, H100 and newer have)"
BY_COMFYUI = "attention PyTorch, as ComfyUI was started"


@pytest.fixture
def display(comfy_runs):  # noqa: F811
    comfy_runs("attention_pytorch")
    return pack_module("wan_s2v_model.comfy_bridge.display")


@pytest.fixture
def shown(display, monkeypatch):
    texts = []
    monkeypatch.setattr(display, "text_display", lambda: texts.append)
    return texts


@pytest.fixture
def two_gpus(display, kernels, monkeypatch):  # noqa: F811
    """Of which the other one alone has fp8."""
    monkeypatch.setattr(display, "gpus_of", lambda model: [model, SimpleNamespace(load_device=OTHER)])
    monkeypatch.setattr(kernels, "_has_float8", lambda device: device == OTHER)


def test_gpus_that_differ_are_named(bridge, files, display, two_gpus):  # noqa: F811
    model = load(bridge, files, speed="fp8 linears")
    exactly, rounded = (f"linear layers in {layers}; {BY_COMFYUI}" for layers in ("float32", "fp8"))
    assert display.computation_in_words(model) == f"cpu computes exactly: {exactly}. {NO_FP8} / cpu:1 computes not exactly: {rounded}"
    assert display.lines_without_effect(model) == f"\ncpu: {NO_FP8}"


def test_gpus_that_are_alike_are_said_once(bridge, files, display, two_gpus):  # noqa: F811
    model = load(bridge, files)
    assert display.computation_in_words(model) == f"computes exactly: linear layers in float32; {BY_COMFYUI}"
    assert display.lines_without_effect(model) == ""


def test_speed_without_effect_stands_on_both_samplers(bridge, files, vae, display, shown):  # noqa: F811
    model = load(bridge, files, speed="fp8 linears")
    with bridge.report_blocks(model, Progress(1, 12), 17, "", lambda: None) as on_step:
        on_step(0, 0, torch.zeros(16, 3, 8, 8))
    num_live = len(shown)
    with clip_sampler(bridge, model).report_to(Progress(1, 5), 5):
        pass
    assert 0 < num_live < len(shown)
    assert all(text.endswith(f"\n{NO_FP8}") for text in shown)


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        (Placement(), f"computes exactly: linear layers in float32; {BY_COMFYUI}"),
        (Placement(float8=True), f"computes not exactly: linear layers in float32; {BY_COMFYUI}; what the steps remember in float8"),
    ],
)
def test_live_video_says_what_it_computes_with(bridge, files, vae, display, caplog, placement, words):  # noqa: F811
    with caplog.at_level("INFO", "wan_s2v"), bridge.live_team(load(bridge, files), vae, bridge.LivePlan(8, 8, placement=placement)):
        pass
    assert words in [record.getMessage() for record in caplog.records]
