"""Marks and scales of quantised layers: mended where the numbers are there, refused where something is missing."""

import json

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.quantisation import fit_marks, is_quantisation, logical_shapes, require_marks

FORMATS = ("float8_e4m3fn", "float8_e5m2", "nvfp4", "mxfp8", "int8_tensorwise", "convrot_w4a4", "new_one")
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


def packed(name, dtype, shape, **scales):
    """A layer in a packed format; scales: part -> shape."""
    parts = {f"a.{part}": torch.ones(size) for part, size in scales.items()}
    return {"a.weight": torch.zeros(shape, dtype=dtype), "a.comfy_quant": mark({"format": name}), **parts}


PACKED = {  # format: (a matrix of 32 rows and 256 columns as ComfyUI stores it)
    "nvfp4": packed("nvfp4", torch.uint8, (32, 128), weight_scale=(128, 16), weight_scale_2=()),
    "mxfp8": packed("mxfp8", E4M3, (32, 256), weight_scale=(128, 8)),
    "int8_tensorwise": packed("int8_tensorwise", torch.int8, (32, 256), weight_scale=(32, 1)),
    "convrot_w4a4": packed("convrot_w4a4", torch.int8, (32, 128), weight_scale=(32,)),
    "new_one": packed("new_one", torch.int8, (32, 256), code_book=(2,)),  # left to ComfyUI, whatever it is
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_layers_stay_and_their_marks_tell_the_shape(name):
    """Before, the stored shape was taken for the layer's: "56 tensors of the wrong shape, download the file again"."""
    tensors = {**PACKED[name], "a.bias": torch.ones(32), "b.weight": torch.ones(3, 5)}
    assert fit_marks(tensors, FORMATS, "file") == tensors
    shapes = logical_shapes(tensors)
    assert (shapes["a.weight"], shapes["b.weight"], shapes["a.bias"]) == ((32, 256), (3, 5), (32,))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("nvfp4", {"a.weight_scale_2": None}, "the layer a, stored as nvfp4, has no weight_scale_2 instead of 1 numbers"),
        ("nvfp4", {"a.weight_scale": torch.ones(32, 16)}, r"nvfp4, has a weight_scale of the shape \(32, 16\) instead of 2,048 numbers"),
        ("nvfp4", {"a.weight": torch.zeros(32, 256)}, r"a is marked as nvfp4, but stored as torch\.float32 \(32, 256\)"),
        ("nvfp4", {"a.weight": torch.zeros(32, 8, 3, dtype=torch.uint8)}, r"a is marked as nvfp4, but stored as torch\.uint8 \(32, 8, 3\)"),
        ("mxfp8", {"a.weight_scale": torch.ones(())}, r"mxfp8, has a weight_scale of the shape \(\) instead of 1,024 numbers"),
        ("int8_tensorwise", {"a.weight_scale": torch.ones(31, 1)}, r"of the shape \(31, 1\) instead of 1 or 32 numbers"),
        ("convrot_w4a4", {"a.weight_scale": None}, "convrot_w4a4, has no weight_scale instead of 32 numbers"),
    ],
)
def test_packed_layers_without_what_their_format_needs(name, change, message):
    tensors = {key: tensor for key, tensor in {**PACKED[name], **change}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=message):
        fit_marks(tensors, FORMATS, "file")


@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("scale", [(4,), (4, 1), (1, 6), (2, 3), (4, 3, 1), (4, 6)], ids=str)
def test_scales_by_row_or_block_are_multiplied_out(scale, has_mark):
    """Before: "a scale of the shape (4, 1) instead of a single number", or no mark."""
    numbers = torch.arange(1.0, 1 + torch.Size(scale).numel())
    tensors = {**quantised(), "a.weight_scale": numbers.view(scale), "a.input_scale": torch.ones(())}
    fitted = fit_marks(tensors if has_mark else without(tensors, "a.comfy_quant"), FORMATS, "file")
    blocks = numbers.view(scale[0], -1)
    spread = torch.kron(blocks, torch.ones(4 // blocks.shape[0], 6 // blocks.shape[1]))
    assert fitted.keys() == {"a.weight"}
    assert torch.equal(fitted["a.weight"], (tensors["a.weight"].float() * spread).bfloat16())


@pytest.mark.parametrize(("scale", "stays"), [("weight_scale", True), ("scale_weight", True), ("unknown", False)])
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_float8_with_a_scale_needs_no_mark(dtype, scale, stays):
    """Before: "does not say how its quantised weights are stored". Nothing says that products in float8 are meant, so they are exact."""
    tensors = {**without(quantised(dtype=dtype), "a.comfy_quant", "a.weight_scale"), f"a.{scale}": torch.tensor(0.5)}
    fitted = fit_marks(tensors, FORMATS, "file")
    assert ("a.comfy_quant" in fitted) == stays
    if stays:
        expected = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2"}[dtype]
        assert read(fitted["a.comfy_quant"]) == {"format": expected, "full_precision_matrix_mult": True}
        assert fitted["a.weight_scale"] == 0.5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.weight.absmax", "bitsandbytes"),
        ("a.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("a.SCB", "bitsandbytes"),
        ("a.wscales", "SVDQuant"),
        ("a.qweight", "GPTQ or AWQ"),
        ("a.weight._data", "Quanto"),
        ("a.weight_qdata", "torchao"),
        ("a.W_q", "HQQ"),
        ("a.weight_scale_inv", "DeepSeek"),
    ],
)
def test_what_other_programs_pack_is_named(name, words):
    """Before, such a file had "tensors missing", or its weights lacked their scale."""
    with pytest.raises(
        CheckpointError, match=rf"file is quantised by .*{words}.*, which ComfyUI has no layers for \({name}\)\. Pick a bf16"
    ):
        fit_marks({"b.weight": torch.zeros(2, 2), name: torch.zeros(2)}, FORMATS, "file")


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
        ({**quantised(), "a.weight_scale": torch.ones(5)}, r"a has a scale of the shape \(5,\), which does not divide \(4, 6\)"),
        ({**quantised(), "a.weight_scale": torch.ones(0)}, r"a has a scale of the shape \(0,\)"),
        ({**quantised(), "a.weight": torch.ones(4, 6)}, r"a is marked as float8_e4m3fn, but stored as torch\.float32"),
        ({**quantised(), "b.weight": torch.full((2, 2), 448.0).to(E4M3)}, r"1 tensors without their scale \(b\.weight\)"),
        ({**quantised(), "b.weight": torch.full((2, 2), -57344.0).to(E5M2)}, r"1 tensors without their scale \(b\.weight\)"),
        ({"b.weight": torch.zeros(2, 2, dtype=torch.int8)}, r"1 tensors without their scale \(b\.weight\)"),
        (
            {"a.weight": torch.zeros(4, 6, dtype=torch.int8), "a.weight_scale": torch.ones(4, 1)},
            r"does not say how its quantised weights are stored: 1 tensors without a mark \(a\)",
        ),
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
