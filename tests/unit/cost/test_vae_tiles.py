"""Tiles of a picture: what they give covers it once, and each sees far enough around that."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.cost.vae_tiles import HALO, MIN_TILE, deal, grids, shared_grid, tile_area, tiles

SIZES = [(1, 1), (8, 8), (29, 30), (30, 52), (60, 104), (88, 128), (128, 61)]  # latents
CASES = [(height, width, grid) for height, width in SIZES for grid in grids(height, width)]


@pytest.mark.parametrize(("height", "width", "grid"), CASES)
def test_tiles_give_every_pixel_once(height, width, grid):
    given = torch.zeros(height * 8, width * 8, dtype=torch.int)
    for tile in tiles(height, width, grid):
        given[tile.rows.given(8), tile.columns.given(8)] += 1
    assert (given == 1).all()


@pytest.mark.parametrize(("height", "width", "grid"), CASES)
def test_tiles_are_equal_and_inside_and_see_the_halo(height, width, grid):
    found = list(tiles(height, width, grid))
    assert len(found) == grid[0] * grid[1]
    for tile in found:
        assert (tile.rows.stop - tile.rows.start) * (tile.columns.stop - tile.columns.start) == tile_area(height, width, grid)
        for span, length in ((tile.rows, height), (tile.columns, width)):
            assert 0 <= span.start < span.stop <= length
            assert span.start == 0 or span.give_start - span.start >= HALO
            assert span.stop == length or span.stop - span.give_stop >= HALO


@pytest.mark.parametrize(("height", "width", "grid"), CASES)
def test_inner_part_of_a_tile_is_what_it_gives(height, width, grid):
    picture = torch.arange(height * width).view(height, width)
    for tile in tiles(height, width, grid):
        seen = picture[tile.rows.seen(1), tile.columns.seen(1)]
        inner = seen[tile.rows.inner(1), tile.columns.inner(1)]
        assert torch.equal(inner, picture[tile.rows.given(1), tile.columns.given(1)])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_each_grid_of_the_choices_needs_less_memory_and_more_work(height, width):
    choices = grids(height, width)
    areas = [tile_area(height, width, grid) for grid in choices]
    work = [rows * columns * area for (rows, columns), area in zip(choices, areas, strict=True)]
    assert choices[0] == (1, 1)
    assert areas == sorted(set(areas), reverse=True)
    assert work == sorted(work)


def test_choices_ends_with_the_smallest_tiles():
    assert grids(28, 30) == [(1, 1), (1, 2)]  # 28 latents do not give two tiles of 22
    assert tile_area(88, 128, grids(88, 128)[-1]) <= 1.1 * MIN_TILE**2


@pytest.mark.parametrize(
    ("size", "rates", "grid"),
    [
        ((60, 104), [1.0], (1, 1)),
        ((60, 104), [1.0] * 2, (1, 2)),
        ((60, 104), [1.0] * 4, (2, 2)),
        ((88, 128), [1.0] * 4, (2, 2)),
        ((8, 8), [1.0] * 4, (1, 1)),
        ((60, 104), [1.0, 0.9], (1, 2)),
        ((60, 104), [1.0, 0.1], (1, 1)),
        ((88, 128), [1.0, 1.0, 0.1], (1, 2)),
    ],
)
def test_grid_for_several_gpus(size, rates, grid):
    assert shared_grid(*size, (1, 1), rates) == grid


@pytest.mark.parametrize(
    ("count", "rates", "dealt"),
    [(1, [1.0, 1.0], [1, 0]), (4, [1.0, 1.0], [2, 2]), (5, [1.0, 1.0], [3, 2]), (6, [1.0, 0.5], [4, 2]), (2, [0.3, 1.0], [0, 2])],
)
def test_gpus_take_tiles_by_their_speed(count, rates, dealt):
    assert deal(count, rates) == dealt


def test_grid_for_several_gpus_has_no_larger_tiles_than_fit():
    for fitting in grids(60, 104):
        assert tile_area(60, 104, shared_grid(60, 104, fitting, [1.0, 1.0])) <= tile_area(60, 104, fitting)
