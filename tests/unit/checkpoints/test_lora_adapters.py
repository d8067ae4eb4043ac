"""Adapters that ComfyUI cannot apply to a tensor, found before it tries."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.checkpoints.lora_adapters import Misfit, adapter_kind, require_fit, with_axes

LINEAR = (8, 6)
CONVOLUTION = (8, 4, 1, 2, 2)
ORDERS_OF_GLORA = {
    "a1": [(6, 2), (2, 6)],
    "a2": [(2, 6), (6, 2)],
    "b1": [(8, 2), (2, 6)],
    "b2": [(2, 6), (8, 2)],
}


def low_rank(rank=2, rows=8, columns=6, **others):
    return {"lora_up.weight": (rows, rank), "lora_down.weight": (rank, columns), **others}


def loha(**others):
    return {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6), **others}


def glora(order=0, **others):
    return {f"{name}.weight": others.get(name, shapes[order]) for name, shapes in ORDERS_OF_GLORA.items()}


def without(parts, name):
    return {part: shape for part, shape in parts.items() if part != name}


APPLICABLE = [  # a golden test lets ComfyUI apply each of them
    (low_rank(), LINEAR),
    (low_rank(alpha=()), LINEAR),
    (low_rank(alpha=(1,)), LINEAR),
    (low_rank(dora_scale=(8, 1)), LINEAR),
    (low_rank(dora_scale=(8,)), LINEAR),
    (low_rank(dora_scale=(1, 6)), LINEAR),
    (low_rank(columns=16, dora_scale=(8, 1, 1, 1, 1)), CONVOLUTION),
    (low_rank(columns=1), (8,)),
    ({"lora_up.weight": (8, 2, 1, 1, 1), "lora_down.weight": (2, 4, 1, 2, 2)}, CONVOLUTION),
    ({"lora_up.weight": (8, 2, 1, 1), "lora_down.weight": (2, 6, 1, 1)}, LINEAR),
    (loha(), LINEAR),
    ({"lokr_w1": (2, 3), "lokr_w2": (4, 2)}, LINEAR),
    ({"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 2)}, LINEAR),
    (glora(), LINEAR),
    (glora(order=1), LINEAR),
    ({"a1.weight": (4, 2), "a2.weight": (2, 4), "b1.weight": (8, 2), "b2.weight": (2, 4, 1, 2, 2)}, CONVOLUTION),
    ({"oft_blocks": (4, 2, 2)}, LINEAR),
    ({"oft_blocks": (2, 4, 4)}, CONVOLUTION),
    ({"oft_blocks": (2, 2, 4, 4), "alpha": (), "rescale": (8, 1)}, LINEAR),
]


def check(shapes, target):
    require_fit(adapter_kind(shapes), {part: torch.zeros(shape) for part, shape in shapes.items()}, target)


@pytest.mark.parametrize(("shapes", "target"), APPLICABLE)
def test_what_comfyui_can_apply(shapes, target):
    check(shapes, target)


@pytest.mark.parametrize(
    ("shapes", "target", "reason", "detail"),
    [
        ({"alpha": ()}, LINEAR, "an adapter without its other half", ""),
        (without(low_rank(), "lora_up.weight"), LINEAR, "an adapter without its other half", "(no lora_up.weight)"),
        (without(low_rank(), "lora_down.weight"), LINEAR, "an adapter without its other half", "(no lora_down.weight)"),
        *((without(loha(), name), LINEAR, "an adapter without its other half", f"(no {name})") for name in loha()),
        ({"lokr_w1": (2, 3)}, LINEAR, "an adapter without its other half", "(no lokr_w2_a)"),
        ({"lokr_w2": (4, 2)}, LINEAR, "an adapter without its other half", "(no lokr_w1_a)"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (4, 2)}, LINEAR, "an adapter without its other half", "(no lokr_w2_b)"),
        *((without(glora(), name), LINEAR, "an adapter without its other half", f"(no {name})") for name in glora()),
        ({"rescale": (8, 1)}, LINEAR, "an adapter without its other half", "(no oft_blocks)"),
        ({"oft_blocks": (2, 2, 4, 4)}, LINEAR, "an adapter without its other half", "(no alpha)"),
        (low_rank(rank=0), LINEAR, "an adapter of rank 0", ""),
        (low_rank(rank=0, alpha=()), LINEAR, "an adapter of rank 0", ""),
        (loha(hada_w1_a=(8, 0), hada_w1_b=(0, 6)), LINEAR, "an adapter of rank 0", ""),
        (glora(a1=(6, 0), a2=(0, 6), b1=(8, 0), b2=(0, 6)), LINEAR, "an adapter of rank 0", ""),
    ],
)
def test_parts_that_are_missing(shapes, target, reason, detail):
    refused(shapes, target, reason, detail)


@pytest.mark.parametrize(
    ("shapes", "target", "detail"),
    [
        ({"lora_up.weight": (8, 4), "lora_down.weight": (2, 6)}, LINEAR, "(lora_up.weight (8, 4), lora_down.weight (2, 6))"),
        ({"lora_up.weight": (8, 2, 3, 3), "lora_down.weight": (2, 6)}, LINEAR, "(lora_up.weight (8, 18), lora_down.weight (2, 6))"),
        ({"lora_up.weight": (8, 2), "lora_down.weight": ()}, LINEAR, "(lora_down.weight () is no matrix)"),
        ({"lora_up.weight": (8,), "lora_down.weight": (6,)}, LINEAR, "(lora_up.weight (8,) is no matrix)"),
        (loha(hada_w2_b=(3, 6)), LINEAR, "(hada_w2_a (8, 2), hada_w2_b (3, 6))"),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (4, 2), "lokr_w2_b": (3, 2)}, LINEAR, "(lokr_w2_a (4, 2), lokr_w2_b (3, 2))"),
        ({"lokr_w1": (2, 2), "lokr_w2": (4, 2, 1, 2, 2)}, CONVOLUTION, "(lokr_w2 (4, 2, 1, 2, 2) is no matrix)"),
        (glora(b1=(8, 3), b2=(3, 6)), LINEAR, "((6, 2), (2, 6), (8, 3), (3, 6) for (8, 6))"),
        (glora(a1=(1, 2), a2=(2, 1), b2=(2, 1)), (8,), "((1, 2), (2, 1), (8, 2), (2, 1) for (8, 1))"),
        (glora(a1=(4, 2), a2=(2, 4)), LINEAR, "((4, 2), (2, 4), (8, 2), (2, 6) for (8, 6))"),
    ],
)
def test_parts_that_do_not_fit_together(shapes, target, detail):
    refused(shapes, target, "an adapter whose parts do not fit together", detail)


@pytest.mark.parametrize(
    ("shapes", "target", "detail"),
    [
        (low_rank(rows=7), LINEAR, "(7, 6) instead of (8, 6)"),
        (low_rank(columns=4), CONVOLUTION, "(8, 4) instead of (8, 16)"),
        (loha(hada_w2_b=(2, 1)), LINEAR, "(8, 1) instead of (8, 6)"),
        ({"lokr_w1": (2, 3), "lokr_w2": (4, 3)}, LINEAR, "(8, 9) instead of (8, 6)"),
        ({"oft_blocks": (4, 2)}, LINEAR, "(4, 2) instead of n square blocks of 8 rows together"),
        ({"oft_blocks": (3, 2, 2)}, LINEAR, "(3, 2, 2) instead of n square blocks of 8 rows together"),
        ({"oft_blocks": (4, 2, 3)}, LINEAR, "(4, 2, 3) instead of n square blocks of 8 rows together"),
        ({"oft_blocks": (3, 2, 4, 4), "alpha": ()}, LINEAR, "(3, 2, 4, 4) instead of stages that divide 8 rows"),
        ({"oft_blocks": (1, 8, 1, 1), "alpha": ()}, LINEAR, "(1, 8, 1, 1) instead of stages that divide 8 rows"),
    ],
)
def test_changes_of_the_wrong_shape(shapes, target, detail):
    refused(shapes, target, "of the wrong shape", detail)


@pytest.mark.parametrize(
    ("shapes", "target", "detail"),
    [
        (low_rank(dora_scale=(7, 1)), LINEAR, "(dora_scale (7, 1) instead of (8, 1))"),
        (low_rank(dora_scale=(6,)), LINEAR, "(dora_scale (6, 1) instead of (8, 1))"),
        (low_rank(dora_scale=(8, 6)), LINEAR, "(dora_scale (8, 6) instead of (8, 1))"),
        (low_rank(columns=1, dora_scale=(1,)), (8,), "(dora_scale (1,) instead of (8,))"),
        (low_rank(dora_scale=()), LINEAR, "(dora_scale () instead of (8, 1))"),
        (low_rank(columns=16, dora_scale=(8, 1)), CONVOLUTION, "(dora_scale (8, 1) instead of (8, 1, 1, 1, 1))"),
        ({"oft_blocks": (2, 2, 4, 4), "alpha": (), "rescale": (7,)}, LINEAR, "(rescale (7,) instead of (8, 1))"),
    ],
)
def test_scales_of_the_wrong_shape(shapes, target, detail):
    refused(shapes, target, "an adapter whose scales are of the wrong shape", detail)


@pytest.mark.parametrize(
    ("shapes", "target", "reason", "detail"),
    [
        (low_rank(alpha=(2,)), LINEAR, "an adapter whose alpha is not one number", "(alpha with 2 numbers)"),
        (low_rank(alpha=(0,)), LINEAR, "an adapter whose alpha is not one number", "(alpha with 0 numbers)"),
        ({"oft_blocks": (4, 2, 2), "rescale": (8, 1)}, LINEAR, "an OFT with rescale, which ComfyUI applies without it", ""),
        *(
            (parts, CONVOLUTION, "in the Tucker form, which ComfyUI knows for convolutions over pictures only", "")
            for parts in (
                low_rank(columns=4, **{"lora_mid.weight": (2, 2, 1, 2, 2)}),
                loha(hada_t1=(2, 2, 1, 2, 2), hada_t2=(2, 2, 1, 2, 2)),
                loha(hada_t1=(2, 2, 1, 2, 2)),
                {"lokr_w1": (2, 2), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 2), "lokr_t2": (2, 2, 1, 2, 2)},
            )
        ),
    ],
)
def test_forms_that_comfyui_gets_wrong(shapes, target, reason, detail):
    refused(shapes, target, reason, detail)


def refused(shapes, target, reason, detail):
    with pytest.raises(Misfit) as error:
        check(shapes, target)
    assert (error.value.reason, error.value.detail) == (reason, detail)


def test_magnitudes_get_the_axes_of_the_weight():
    assert with_axes(torch.zeros(8), CONVOLUTION).shape == (8, 1, 1, 1, 1)
    assert with_axes(torch.zeros(1, 6), LINEAR).shape == (1, 6)
