"""What the bridge says about a device and a loaded model, and what the sampler makes of it before it samples."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL, VAE
from wan_s2v_pack.tests.golden.comfyui import pack_module

pytestmark = pytest.mark.comfy

OPTIONS = {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"}
TEXT = [[torch.zeros(1, 4, 64), {}]]
GIGABYTE = 10**9


@pytest.fixture(scope="module")
def device(bridge):
    return pack_module("wan_s2v_model.comfy_bridge.device")


@pytest.fixture(scope="module")
def model(bridge, models):
    return bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), OPTIONS)


@pytest.fixture(scope="module")
def vae(bridge, models):
    return bridge.load_vae(str(models / VAE), "fp32")


@pytest.fixture
def memory(monkeypatch):
    """Set the bytes that ComfyUI believes to be free."""
    import comfy.model_management

    return lambda free: monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_: free)


def sampler(bridge, model, cfg=4.5):
    return bridge.ClipSampler(model, TEXT, TEXT, bridge.SamplerSettings(steps=3, cfg=cfg, shift=3.0, solver="unipc"), seed=1)


def plan(**options):
    timeline = pack_module("wan_s2v_model.conditioning.timeline").plan_timeline(160_000, 16_000, 160_000)
    return SimpleNamespace(**{"timeline": timeline, "height": 480, "width": 832, **options})


def test_rate_is_measured_once(device):
    rate = device.product_rate(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e14
    assert device.product_rate(torch.device("cpu"), torch.float32) == rate


def test_device_in_main_memory(bridge, model, vae):
    facts = bridge.device_facts(model, vae)
    assert (facts.name, facts.is_host) == ("the CPU", True)
    assert facts.free_bytes > GIGABYTE / 10
    assert facts.rates.linear > 0


@pytest.mark.parametrize("has_attention", [False, True])
def test_float8_counts_where_it_works(bridge, device, models, model, vae, monkeypatch, has_attention):
    """On a GPU that has it: in the products, and in the attention if there is a kernel."""
    kernel = lambda: None  # noqa: E731
    if has_attention:
        kernel.float8_beyond = 1024
    monkeypatch.setattr(device, "pick_linears", lambda speed, *_: None if speed == "fp8 linears and attention" else device.EXACT)
    monkeypatch.setattr(device, "pick_attention", lambda name, _, float8: kernel if float8 else None)
    monkeypatch.setattr(device, "product_rate", lambda *_: 784e12)
    monkeypatch.setattr(device, "is_on_host", lambda _: False)
    fast = bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), {**OPTIONS, "speed": "fp8 linears and attention"})
    exact, float8 = (bridge.device_facts(each, vae).rates for each in (model, fast))
    assert (exact.linear, exact.attention) == pytest.approx((0.84 * 784e12, 0.85 * 784e12), rel=0.01)
    assert (float8.linear, float8.attention) == pytest.approx((1.38 * 784e12, (1.18 if has_attention else 0.85) * 784e12), rel=0.01)


def test_sage_counts_by_the_gain_of_the_card(bridge, device, models, model, vae, monkeypatch):
    monkeypatch.setattr(device, "pick_attention", lambda name, *_: next(iter(device.SAGES)) if name == "sage" else None)
    monkeypatch.setattr(device, "product_rate", lambda *_: 150e12)
    monkeypatch.setattr(device, "is_on_host", lambda _: False)
    monkeypatch.setattr(device, "device_name", lambda _: "NVIDIA GeForce RTX 4090")
    fast = bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), {**OPTIONS, "attention": "sage"})
    exact, sage = (bridge.device_facts(each, vae).rates for each in (model, fast))
    assert sage.linear == exact.linear
    assert sage.attention == pytest.approx(2.6 * exact.attention)


def test_facts_are_those_of_the_model_whoever_loaded_it(bridge, model, models):
    import comfy.sd

    facts = bridge.model_facts(bridge.with_s2v_forward(model))
    stored = sum(tensor.nbytes for tensor in model.model.state_dict().values())
    assert (facts.weights_bytes, facts.held_bytes, facts.value_bytes, facts.residual_bytes) == (stored, stored, 4, 4)
    assert facts.is_resident
    native = comfy.sd.load_diffusion_model(str(models / DIFFUSION_MODEL), model_options={"dtype": torch.bfloat16})
    other = bridge.model_facts(bridge.with_s2v_forward(native))
    assert other.config == facts.config
    assert other.weights_bytes < facts.weights_bytes


@pytest.mark.parametrize(("precision", "residual_bytes"), [("official", 4), ("fast", 2)])
def test_precision_decides_the_residual_stream(bridge, models, precision, residual_bytes):
    model = bridge.load_diffusion_model(str(models / DIFFUSION_MODEL), {**OPTIONS, "precision": precision})
    model.model.manual_cast_dtype = torch.bfloat16
    facts = bridge.model_facts(model)
    assert (facts.value_bytes, facts.residual_bytes) == (2, residual_bytes)


def test_models_that_can_leave_the_gpu_count_as_free(device, monkeypatch, memory):
    import comfy.model_management

    memory(3 * GIGABYTE)
    gpu = torch.device("cuda", 0)
    loaded = [
        SimpleNamespace(device=place, model=SimpleNamespace(loaded_size=lambda: GIGABYTE)) for place in (gpu, gpu, torch.device("cpu"))
    ]
    dead = SimpleNamespace(device=gpu, model=None)
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [*loaded, dead])
    assert device.obtainable_memory(gpu) == 5 * GIGABYTE
    assert device.obtainable_memory(torch.device("cpu")) == 3 * GIGABYTE


def test_assumed_model_is_the_14b_model(bridge, vae):
    model, device = bridge.assumed_facts(vae)
    assert model.config.num_layers == 40
    assert model.weights_bytes >= 2 * 16.2e9
    assert device.is_host


@pytest.mark.parametrize(("cfg", "calls"), [(4.5, "2 model calls"), (1.0, "1 model call:"), (0.5, "1 model call:")])
def test_sampler_logs_the_estimate(bridge, model, vae, memory, caplog, cfg, calls):
    memory(64 * GIGABYTE)
    with caplog.at_level(logging.INFO, "wan_s2v"):
        bridge.require_memory(sampler(bridge, model, cfg), plan(), 1, vae)
    (message,) = (record.getMessage() for record in caplog.records if record.name == "wan_s2v")
    assert message.startswith("estimate: 2 clips of 832x480, 35,074 tokens, 3 steps of " + calls)
    assert "64 GB free" in message


def test_sampler_refuses_what_does_not_fit(bridge, model, vae, memory):
    memory(GIGABYTE)
    with pytest.raises(
        ValueError, match=r"^832x480 with 80 frames per clip needs at least .* GB of main memory, but only 1\.\d GB can be had"
    ):
        bridge.require_memory(sampler(bridge, model), plan(), 0, vae)


def test_finished_run_is_not_refused(bridge, model, vae, memory):
    memory(0)
    finished = SimpleNamespace(num_finished=plan().timeline.num_clips)
    pack_module("nodes.sampling").WanS2VSampler._run(finished, plan(), 1, sampler(bridge, model), vae, "")


def test_model_that_stays_on_the_gpu(bridge, model):
    kept = bridge.with_s2v_forward(model)
    kept.load_device, kept.offload_device = torch.device("cuda", 0), torch.device("cpu")
    offloaded = bridge.model_facts(kept)
    kept.offload_device = kept.load_device
    resident = bridge.model_facts(kept)
    assert (offloaded.is_resident, resident.is_resident) == (False, True)
    assert replace(offloaded, is_resident=True) == resident
