"""Tiles of a picture that overlap so far that their inner parts do not depend on what lies outside. Lengths are in latents of 8 pixels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

HALO = 7  # latents; the convolutions between pixels and latents reach over 43 pixels in the encoder and 50 in the decoder
OVERLAP = 2 * HALO
MIN_TILE = OVERLAP + 8  # latents; smaller ones would do the same work over and over

Grid = tuple[int, int]  # rows and columns of tiles


@dataclass(frozen=True)
class Span:
    """A tile along one axis: what it sees, and the part of that which it gives."""

    start: int
    stop: int
    give_start: int
    give_stop: int

    def seen(self, scale: int) -> slice:
        """On an axis of the picture with `scale` elements per latent."""
        return slice(self.start * scale, self.stop * scale)

    def given(self, scale: int) -> slice:
        """On an axis of the picture with `scale` elements per latent."""
        return slice(self.give_start * scale, self.give_stop * scale)

    def inner(self, scale: int) -> slice:
        """What is given, on the tile's own axis."""
        return slice((self.give_start - self.start) * scale, (self.give_stop - self.start) * scale)


@dataclass(frozen=True)
class Tile:
    """A rectangle of a picture."""

    rows: Span
    columns: Span


def grids(height: int, width: int) -> list[Grid]:
    """Ways to cut a picture, from one tile to the smallest ones; each needs less memory and more work than the one before."""
    candidates = [(rows, columns) for rows in _counts(height) for columns in _counts(width)]
    choices: list[Grid] = []
    for grid in sorted(candidates, key=lambda grid: (grid[0] * grid[1] * tile_area(height, width, grid), grid)):
        if not choices or tile_area(height, width, grid) < tile_area(height, width, choices[-1]):
            choices.append(grid)
    return choices


def tile_area(height: int, width: int, grid: Grid) -> int:
    """Latents that a tile sees."""
    return _tile_length(height, grid[0]) * _tile_length(width, grid[1])


def shared_grid(height: int, width: int, fitting: Grid, rates: Sequence[float]) -> Grid:
    """The quickest way to cut a picture for GPUs of these speeds, into tiles no larger than those of a grid that fits."""

    def seconds(grid: Grid) -> float:
        dealt = deal(grid[0] * grid[1], rates)
        return tile_area(height, width, grid) * max(count / rate for count, rate in zip(dealt, rates, strict=True))

    choices = grids(height, width)
    return min(choices[choices.index(fitting) :], key=seconds)


def deal(count: int, rates: Sequence[float]) -> list[int]:
    """How many of so many equal tiles each GPU takes for all to end early."""
    dealt = [0] * len(rates)
    for _ in range(count):
        dealt[min(range(len(rates)), key=lambda gpu: (dealt[gpu] + 1) / rates[gpu])] += 1
    return dealt


def tiles(height: int, width: int, grid: Grid) -> Iterator[Tile]:
    """Tiles of equal size, row by row; what they give covers the picture once."""
    columns = _spans(width, grid[1])
    return (Tile(row, column) for row in _spans(height, grid[0]) for column in columns)


def _counts(length: int) -> list[int]:
    """Into how many tiles an axis can be cut."""
    return [count for count in range(1, length) if count == 1 or _tile_length(length, count) >= MIN_TILE] or [1]


def _tile_length(length: int, count: int) -> int:
    return ceil((length + (count - 1) * OVERLAP) / count)


def _spans(length: int, count: int) -> list[Span]:
    size = _tile_length(length, count)
    starts = [index * (length - size) // max(1, count - 1) for index in range(count)]
    cuts = [0, *((before + size + behind) // 2 for before, behind in pairwise(starts)), length]
    return [Span(start, start + size, *cuts[index : index + 2]) for index, start in enumerate(starts)]
