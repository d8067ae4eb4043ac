"""Rotary positions of video, reference and motion tokens."""

import math
from collections.abc import Iterator

CHUNK_ROWS = 17_664  # 832x480 in two: larger products are faster, and the wide rows take 0.5 GB
ALIGNED_ROWS = 16  # slices begin at multiples of it, as the scales of float8 products must
CHUNK_ROWS_KEY = "wan_s2v_chunk_rows"  # in transformer_options: fewer, where memory is short


def chunk_size(rows: int, limit: int = CHUNK_ROWS) -> int:
    """Tokens in each of the slices of `row_chunks`; the last one may be smaller."""
    size = math.ceil(rows / math.ceil(rows / limit)) if rows else 1
    return math.ceil(size / ALIGNED_ROWS) * ALIGNED_ROWS


def row_chunks(rows: int, limit: int = CHUNK_ROWS) -> Iterator[slice]:
    """Slices of about equal size, at most `limit` tokens (a multiple of 16): for what is computed token by token, without a copy of all."""
    size = chunk_size(rows, limit)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
