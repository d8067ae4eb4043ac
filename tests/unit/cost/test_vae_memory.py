"""How many tiles for how much memory, and the sentence that says so."""

from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model.cost.vae_memory import DECODE, ENCODE, HEADROOM, VaePass, choose_grid, describe_choice
from wan_s2v_pack.wan_s2v_model.cost.vae_tiles import grids

LARGE = VaePass("decode", DECODE, 88, 128, value_bytes=4)  # 1024x704
SMALL = VaePass("decode", DECODE, 60, 104, value_bytes=4)  # 832x480


@pytest.mark.parametrize(
    ("vae_pass", "measured_gib"),
    [
        (SMALL, 5.97),
        (replace(SMALL, value_bytes=2), 2.99),
        (LARGE, 10.78),
        (replace(LARGE, value_bytes=2), 5.39),
    ],
)
def test_estimate_is_what_was_measured_and_headroom(vae_pass, measured_gib):
    assert vae_pass.needed_bytes() == pytest.approx(HEADROOM * measured_gib * 2**30, rel=0.005)


@pytest.mark.parametrize(
    ("change", "factor"),
    [({"value_bytes": 2}, 0.5), ({"width_factor": 0.25}, 0.25), ({"is_picture": True}, 600 / 4015), ({"footprint": ENCODE}, 2850 / 4015)],
)
def test_estimate_scales_with(change, factor):
    assert replace(LARGE, **change).needed_bytes() == pytest.approx(factor * LARGE.needed_bytes())


def test_weights_come_on_top():
    assert replace(LARGE, weights_bytes=5e8).needed_bytes((2, 2)) == LARGE.needed_bytes((2, 2)) + 5e8


def test_layers_between_latents_never_see_tiles():
    finest = grids(88, 128)[-1]
    assert replace(LARGE, is_picture=True).needed_bytes(finest) == pytest.approx(HEADROOM * DECODE.coarse * 4 * 1024 * 704)


@pytest.mark.parametrize(
    ("vae_pass", "free_gb", "grid"),
    [
        (SMALL, 71.3, (1, 1)),
        (SMALL, 7.71, (1, 1)),
        (SMALL, 7.69, (1, 2)),
        (SMALL, 4.0, (1, 3)),
        (SMALL, 0.5, (6, 12)),  # nothing fits
        (LARGE, 13.9, (1, 1)),
        (LARGE, 13.8, (1, 2)),
        (LARGE, 7.0, (1, 3)),
        (LARGE, 2.0, (3, 5)),
        (replace(LARGE, value_bytes=2), 7.0, (1, 1)),
        (replace(LARGE, weights_bytes=5e8), 14.0, (1, 2)),
        (replace(LARGE, is_picture=True), 2.1, (1, 1)),
    ],
)
def test_fewest_tiles_that_fit(vae_pass, free_gb, grid):
    assert choose_grid(vae_pass, free_gb * 1e9) == grid


@pytest.mark.parametrize("vae_pass", [SMALL, LARGE, replace(LARGE, footprint=ENCODE, name="encode")])
def test_what_is_chosen_fits_from_a_gigabyte_on(vae_pass):
    for free_bytes in range(int(1e9), int(15e9), int(2e8)):
        assert vae_pass.needed_bytes(choose_grid(vae_pass, free_bytes)) <= free_bytes


@pytest.mark.parametrize(
    ("free_gb", "text"),
    [
        (71.3, "VAE decode 1024x704: whole picture, needs 13.9 GB, 71.3 GB can be had."),
        (
            11.0,
            "VAE decode 1024x704: 2 tiles, each needs 7.7 GB, because the whole picture needs 13.9 GB and 11.0 GB can be had; "
            "the same result in 1.1 times the time. What helps: a smaller size, dtype bf16 in the VAE loader, other programs closed.",
        ),
    ],
)
def test_log_line(free_gb, text):
    assert describe_choice(LARGE, choose_grid(LARGE, free_gb * 1e9), free_gb * 1e9) == text


def test_log_line_warns_where_nothing_fits():
    text = describe_choice(LARGE, choose_grid(LARGE, 1e8), 1e8)
    assert "0.1 GB can be had" in text
    assert ". This may run out of memory. What helps: a smaller size" in text


def test_log_line_does_not_advise_what_is_so_already():
    half = replace(LARGE, value_bytes=2)
    assert "What helps: a smaller size, other programs closed." in describe_choice(half, (1, 2), 4e9)
