"""`doctor --compare`'s model calls on the tiny models: both models agree in float32, and each fault that could hide is found."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
from wan_s2v_pack.scripts.tiny_models.layouts import DIFFUSION_MODEL, LAYOUTS
from wan_s2v_pack.tests.golden.comfyui import comfyui_path, pack_module

pytestmark = pytest.mark.comfy

AGREES = 1e-5
DIFFERS = 1e-3  # whatever is wrong makes more than this
OTHERS = ["dit_fp8_scaled", "dit_folder", "dit_prefix_fp8_layers"]


@pytest.fixture(scope="module")
def calls(bridge):
    return pack_module("cli.compare.calls")


@pytest.fixture(scope="module")
def path(models) -> str:
    return str(models / DIFFUSION_MODEL)


@pytest.fixture(scope="module")
def cases(bridge, calls, path):
    config = bridge.load_diffusion_model(path, calls.OPTIONS).model.diffusion_model.config
    return {name: calls.make_case(config, *size, later=name == "later clip") for name, size in calls.CASES.items()}


@pytest.fixture(scope="module")
def ours(bridge, calls, path, cases):
    """Our outputs in float32."""
    return calls.run_cases(bridge.load_diffusion_model(path, calls.OPTIONS), cases, exact_only=True).exact


def differences(calls, ours, model, cases) -> dict[str, float]:
    outputs = calls.run_cases(model, cases, exact_only=True).exact
    return {name: calls.difference(outputs[name], ours[name]) for name in cases}


def test_both_models_compute_the_same_function(bridge, calls, path):
    measured = calls.compare(bridge, path)
    assert set(measured["cases"]) == {"first clip", "later clip"}
    for case in measured["cases"].values():
        assert 0 < case["exact"] < AGREES
        assert case["late"] > DIFFERS
        assert 0 < case["ours"] < case["comfyui"] < 0.02  # ours keeps the residual stream in float32
    assert measured["dtype"] == "bfloat16"
    json.dumps(measured)


@pytest.fixture(scope="module")
def layouts(bridge, tmp_path_factory):
    """A models folder with the layouts below."""
    folder = tmp_path_factory.mktemp("layouts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFYUI_PATH", str(comfyui_path()))
        make_tiny_models(folder, OTHERS)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_every_layout_of_the_file_is_compared(bridge, calls, layouts, name):
    file = layouts / LAYOUTS[name].pick
    file = next(file.glob("*.index.json")) if file.is_dir() else file
    measured = calls.compare(bridge, str(file))
    assert max(case["exact"] for case in measured["cases"].values()) < AGREES


@pytest.mark.parametrize(
    "weight",
    [
        "blocks.1.self_attn.q.weight",
        "blocks.2.ffn.0.weight",
        "audio_injector.injector.1.k.weight",
        "casual_audio_encoder.encoder.final_linear.weight",
    ],
)
def test_permuted_weights_are_found(calls, ours, cases, path, tmp_path, weight):
    tensors = load_file(path)
    tensors[weight] = tensors[weight].flip(-1).contiguous()
    config = {"text_dim": 64, "audio_dim": 32, "audio_inject_layers": [0, 2, 3]}
    save_file(tensors, tmp_path / "permuted.safetensors", metadata={"config": json.dumps({"transformer": config})})
    wrong = calls.load_native(str(tmp_path / "permuted.safetensors"))
    earlier = {name: calls.heard_earlier(case) for name, case in cases.items()}
    with calls.reference_positions(wrong.model.diffusion_model):
        assert min(differences(calls, ours, wrong, earlier).values()) > DIFFERS


def test_wrong_motion_weights_are_found_by_the_later_clip(calls, ours, cases, path):
    native = calls.load_native(path)
    packer = native.model.diffusion_model.frame_packer
    packer.proj.weight = torch.nn.Parameter(packer.proj.weight.flip(-1), requires_grad=False)
    earlier = {name: calls.heard_earlier(case) for name, case in cases.items()}
    with calls.reference_positions(native.model.diffusion_model):
        found = differences(calls, ours, native, earlier)
    assert found["first clip"] < AGREES
    assert found["later clip"] > DIFFERS


def test_sound_that_is_one_frame_off_is_found(calls, ours, cases, path):
    native = calls.load_native(path)
    shifted = {}
    for name, case in cases.items():
        earlier = calls.heard_earlier(case)
        sound = earlier.conditions["audio_embed"].roll(1, dims=-1)
        shifted[name] = calls.Case(earlier.latents, {**earlier.conditions, "audio_embed": sound})
    with calls.reference_positions(native.model.diffusion_model):
        assert min(differences(calls, ours, native, shifted).values()) > DIFFERS


def test_comfyuis_own_far_history_is_a_departure_that_only_the_later_clip_sees(calls, ours, cases, path):
    earlier = {name: calls.heard_earlier(case) for name, case in cases.items()}
    found = differences(calls, ours, calls.load_native(path), earlier)
    assert found["first clip"] < AGREES
    assert found["later clip"] > DIFFERS


def test_the_loader_of_others_is_as_before(calls, path):
    import comfy.supported_models

    before = comfy.supported_models.WAN22_S2V.supported_inference_dtypes
    native = calls.load_native(path)
    with calls.reference_positions(native.model.diffusion_model):
        assert "rope_encode" in vars(native.model.diffusion_model)
    assert "rope_encode" not in vars(native.model.diffusion_model)
    assert comfy.supported_models.WAN22_S2V.supported_inference_dtypes is before


def test_what_is_not_finite_is_no_difference(calls):
    ones = torch.ones(3)
    assert calls.difference(ones * 1.5, ones) == pytest.approx(0.5)
    for wrong, truth in ((ones / 0, ones), (ones * float("nan"), ones), (ones, ones * 0), (ones * 0, ones * 0)):
        assert calls.difference(wrong, truth) is None
