"""Marks and scales of quantised layers: mended where the numbers are there, refused where something is missing."""

import json

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.quantisation import fit_marks, is_quantisation, require_marks

FORMATS = ("float8_e4m3fn", "float8_e5m2", "nvfp4")
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def mark(stored):
    return torch.tensor(list(json.dumps(stored).encode()), dtype=torch.uint8)


def read(stored):
    return json.loads(bytes(stored.tolist()))


def quantised(shape=(4, 6), dtype=E4M3, name="float8_e4m3fn", **more):
    """A layer whose values use the whole range of their type."""
    values = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape) * torch.finfo(dtype).max
    return {"a.weight": values.to(dtype), "a.weight_scale": torch.tensor(0.5), "a.comfy_quant": mark({"format": name, **more})}


def without(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_marked_matrix_stays_as_it_is():
    tensors = {**quantised(full_precision_matrix_mult=True), "a.input_scale": torch.tensor(2.0), "b.weight": torch.zeros(2, 2)}
    fitted = fit_marks(tensors, FORMATS, "file")
    assert fitted.keys() == tensors.keys()
    assert fitted["a.weight"] is tensors["a.weight"]
    assert read(fitted["a.comfy_quant"]) == {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}


def test_mark_says_how_the_weight_is_really_stored():
    tensors = quantised(dtype=E5M2, full_precision_matrix_mult=True)
    assert read(fit_marks(tensors, FORMATS, "file")["a.comfy_quant"]) == {"format": "float8_e5m2", "full_precision_matrix_mult": True}
    assert read(tensors["a.comfy_quant"])["format"] == "float8_e4m3fn"  # the caller's are untouched


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 2, 1, 2, 2), (8,)])
@pytest.mark.parametrize("scale", [torch.tensor(0.5), torch.tensor([0.5])])
def test_scaled_weights_that_are_no_matrices_are_multiplied_out(shape, scale):
    tensors = {**quantised(shape), "a.weight_scale": scale, "a.input_scale": torch.tensor(1.0), "a.bias": torch.ones(4)}
    fitted = fit_marks(tensors, FORMATS, "file")
    assert fitted.keys() == {"a.weight", "a.bias"}
    assert torch.equal(fitted["a.weight"], tensors["a.weight"].float() * 0.5)


def test_other_formats_are_left_to_comfyui():
    tensors = {
        "a.weight": torch.zeros(4, 3, dtype=torch.uint8),
        "a.weight_scale": torch.ones(4, 1),
        "a.comfy_quant": mark({"format": "nvfp4"}),
    }
    assert fit_marks(tensors, FORMATS, "file") == tensors


@pytest.mark.parametrize(
    "tensors",
    [
        {"a.weight": torch.full((4, 6), 448.0).to(E4M3)},  # nothing else of the file is quantised: a plain cast
        {**quantised(), "b.weight": torch.full((2, 2), 3.0).to(E4M3)},  # a plain cast beside scaled ones
        {**quantised(), "b.weight": torch.full((2,), 448.0).to(E4M3)},  # of a norm
        {"spiece_model": torch.zeros(9, dtype=torch.uint8)},
    ],
)
def test_what_needs_no_scale(tensors):
    assert fit_marks(tensors, FORMATS, "file").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without(quantised(), "a.weight_scale"), "file is incomplete: the quantised layer a has no scale"),
        ({**quantised(), "a.weight_scale": torch.ones(4)}, r"a has a scale of the shape \(4,\) instead of a single number"),
        ({**quantised(), "a.weight_scale": torch.ones(0)}, r"a has a scale of the shape \(0,\)"),
        ({**quantised(), "a.weight": torch.ones(4, 6)}, r"a is marked as float8_e4m3fn, but stored as torch\.float32"),
        ({**quantised(), "b.weight": torch.full((2, 2), 448.0).to(E4M3)}, r"1 tensors without their scale \(b\.weight\)"),
        ({**quantised(), "b.weight": torch.full((2, 2), -57344.0).to(E5M2)}, r"1 tensors without their scale \(b\.weight\)"),
        ({"b.weight": torch.zeros(2, 2, dtype=torch.int8)}, r"1 tensors without their scale \(b\.weight\)"),
        (without(quantised(), "a.comfy_quant"), r"does not say how its quantised weights are stored: 1 tensors without a mark \(a\)"),
        (quantised(name="float3"), "a is stored as 'float3', which this ComfyUI does not know"),
        *(
            ({**quantised(), "a.comfy_quant": mark(stored)}, "the mark of its quantised layer a cannot be read")
            for stored in ({}, [], "x", None)
        ),
        ({**quantised(), "a.comfy_quant": torch.tensor([123], dtype=torch.uint8)}, "the mark of its quantised layer a cannot be read"),
        ({**quantised(), "a.comfy_quant": torch.tensor([0.5])}, "the mark of its quantised layer a cannot be read"),
    ],
)
def test_what_is_missing_is_said(tensors, message):
    with pytest.raises(CheckpointError, match=message):
        fit_marks(tensors, FORMATS, "file")


def test_names_that_describe_others():
    names = ["a.weight", "a.comfy_quant", "a.weight_scale", "a.scale_weight", "scaled_fp8", "scaled_fp8.weight"]
    assert [name for name in names if is_quantisation(name)] == names[1:5]


def test_marked_layers_may_have_scales():
    require_marks(["a.weight", "a.weight_scale", "a.input_scale", "a.comfy_quant", "b.weight"], "file")


@pytest.mark.parametrize("name", ["b.weight_scale", "b.scale_weight", "b.input_scale"])
def test_scale_without_a_mark_is_refused(name):
    with pytest.raises(CheckpointError, match=r"file does not say how .* 1 tensors without a mark \(b\)"):
        require_marks(["a.weight_scale", "a.comfy_quant", "b.weight", name], "file")
