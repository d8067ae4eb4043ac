"""Which pictures of other nodes are taken, and as what."""

import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.pictures import read_masks, read_optional_pictures, read_pictures

PICTURES = torch.rand(2, 32, 48, 4, generator=torch.Generator().manual_seed(0))
COLOURS = PICTURES[..., :3]
LEVELS = (COLOURS * 255).round()


def test_an_image_as_it_should_be_is_not_copied():
    assert read_pictures("image", COLOURS).data_ptr() == COLOURS.data_ptr()
    assert read_optional_pictures("pose", None) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (PICTURES, COLOURS),
        (COLOURS[0], COLOURS[:1]),
        (PICTURES[0], COLOURS[:1]),
        (COLOURS.numpy(), COLOURS),
        (COLOURS.numpy()[:, ::-1], COLOURS.flip(1)),
        (COLOURS.numpy().astype(">f4"), COLOURS),
        (COLOURS.tolist(), COLOURS),
        (list(COLOURS), COLOURS),
        (COLOURS.double(), COLOURS),
        (LEVELS, LEVELS / 255),
        (LEVELS.to(torch.uint8), LEVELS / 255),
        (LEVELS.numpy().astype(np.uint8)[0], LEVELS[:1] / 255),
        (PICTURES[..., :1], PICTURES[..., :1].expand(-1, -1, -1, 3)),
        (PICTURES[..., :2], PICTURES[..., :1].expand(-1, -1, -1, 3)),
        (COLOURS * 1.4 - 0.2, (COLOURS * 1.4 - 0.2).clamp(0, 1)),
    ],
)
def test_what_is_clear_is_taken(given, expected):
    """Bytes and 0..255 were a white picture; values out of 0..1 went into the VAE as they were."""
    pixels = read_pictures("pose", given)
    assert pixels.dtype == torch.float32
    assert pixels.shape == expected.shape
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)
    assert pixels.min() >= 0
    assert pixels.max() <= 1


def test_half_precision_becomes_float32():
    assert read_pictures("image", COLOURS.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (torch.zeros(32, 48), r"pose must be an IMAGE with at least one colour picture: .*, got shape \(32, 48\)"),
        (torch.zeros(2, 3, 32, 48), "pose must be an IMAGE"),
        (torch.zeros(2, 32, 48), "pose must be an IMAGE"),
        (torch.zeros(1, 1, 32, 48, 3), "pose must be an IMAGE"),
        (torch.zeros(0, 32, 48, 3), "pose must be an IMAGE"),
        ("picture.png", "pose must be an IMAGE .* got a str that is no array of numbers"),
        ([[1.0], [1.0, 2.0]], "pose must be an IMAGE .* got a list"),
        ({"samples": torch.zeros(1)}, "pose must be an IMAGE .* got a dict"),
        (None, "pose must be an IMAGE .* got nothing"),
        (torch.full((1, 2, 2, 3), float("nan")), "pose contains NaN or infinite pixels"),
        (torch.full((1, 2, 2, 3), float("inf")), "pose contains NaN or infinite pixels"),
        (torch.full((1, 2, 2, 3), 1000.0), "pose holds values from 1e.03 to 1e.03. An IMAGE holds float in 0..1"),
        (torch.full((1, 2, 2, 3), -100.0), "pose holds values from -100 to -100"),
        (torch.full((1, 2, 2, 3), 7, dtype=torch.int64), "pose holds numbers of the type int64, whose white is not known"),
    ],
)
def test_pictures_that_are_refused(pixels, problem):
    with pytest.raises(ValueError, match=problem):
        read_pictures("pose", pixels)


def test_scaling_is_said(caplog):
    read_pictures("image", LEVELS)
    assert "image holds values from 0 to 255: taken as 0..255, and divided by 255" in caplog.text


MASKS = PICTURES[..., 0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (MASKS, MASKS),
        (MASKS[0], MASKS[:1]),
        (MASKS.numpy(), MASKS),
        (MASKS > 0.5, (MASKS > 0.5).float()),
        ((MASKS * 255).to(torch.uint8), (MASKS * 255).to(torch.uint8).float() / 255),
    ],
)
def test_masks(given, expected):
    assert torch.equal(read_masks("mask_1", given), expected)


@pytest.mark.parametrize("given", [PICTURES, torch.empty(0, 4, 4), torch.ones(4), "mask"])
def test_what_is_no_mask(given):
    with pytest.raises(ValueError, match="mask_1 must be"):
        read_masks("mask_1", given)


def test_a_mask_with_nan():
    with pytest.raises(ValueError, match="mask_1 contains NaN"):
        read_masks("mask_1", torch.full((1, 4, 4), float("nan")))
