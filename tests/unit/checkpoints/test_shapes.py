"""What is said about tensors that are missing, too many or of the wrong shape."""

import re

import pytest
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.shapes import compare_shapes, require_dimensions, require_fit

FILE = "some_model.safetensors"
EXPECTED = {f"{layer}.{name}": shape for layer in "abc" for name, shape in (("weight", (4, 2)), ("bias", (4,)))}


def without(*names):
    return {name: shape for name, shape in EXPECTED.items() if name not in names}


def test_what_fits_has_no_problems():
    assert compare_shapes(EXPECTED, EXPECTED) == ""
    require_fit({**EXPECTED, "a.weight_scale": (1,), "a.comfy_quant": (9,)}, EXPECTED, "the model", FILE)


def test_missing_tensors_are_counted_and_named():
    with pytest.raises(CheckpointError) as caught:
        require_fit({}, EXPECTED, "Wan2.2-S2V", FILE)
    assert str(caught.value) == (
        f"{FILE} does not fit Wan2.2-S2V: 6 tensors missing (a.bias, a.weight, b.bias, ...). Download the file again or pick another one."
    )


def test_unexpected_tensors_are_named():
    assert compare_shapes({**EXPECTED, "motioner.weight": (4, 4)}, EXPECTED) == "1 tensors unexpected (motioner.weight)"


def test_more_than_three_names_are_cut():
    more = {f"x{index}": (1,) for index in range(4)}
    assert compare_shapes(EXPECTED | more, EXPECTED) == "4 tensors unexpected (x0, x1, x2, ...)"


def test_wrong_shapes_are_named_with_both_shapes():
    assert compare_shapes({**EXPECTED, "b.weight": (9, 2)}, EXPECTED) == "1 tensors of the wrong shape (b.weight (9, 2) instead of (4, 2))"


def test_all_problems_are_in_one_message():
    found = without("a.bias") | {"x": (1,), "b.bias": (7,)}
    expected = "1 tensors missing (a.bias); 1 tensors unexpected (x); 1 tensors of the wrong shape (b.bias (7,) instead of (4,))"
    assert compare_shapes(found, EXPECTED) == expected


def test_part_of_a_folder_is_not_downloaded_again():
    with pytest.raises(CheckpointError, match=r"missing.*It is one part of a model in several files; pick a single file"):
        require_fit(without("a.bias"), EXPECTED, "the model", "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("shape", "problem"),
    [((4,), "of the wrong shape (a.weight (4,))"), ((0, 2), "of the wrong shape (a.weight (0, 2))"), (None, "missing (a.weight)")],
)
def test_tensors_that_tell_the_architecture_have_all_dimensions(shape, problem):
    require_dimensions(EXPECTED, {"a.weight": 2, "a.bias": 1}, FILE)
    shapes = without("a.weight") if shape is None else {**EXPECTED, "a.weight": shape}
    with pytest.raises(CheckpointError, match=re.escape(f"{FILE} is incomplete: 1 tensors {problem}. Download the file again")):
        require_dimensions(shapes, {"a.weight": 2, "a.bias": 1}, FILE)
