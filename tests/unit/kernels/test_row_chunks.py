"""Rows in slices, for what is computed token by token."""

import pytest
from wan_s2v_pack.wan_s2v_model.kernels.row_chunks import row_chunks


@pytest.mark.parametrize(("rows", "limit"), [(35_074, 17_664), (63_360, 17_664), (17_537, 2048), (5, 16), (0, 16)])
def test_slices_are_about_equal_and_begin_at_multiples_of_16(rows, limit):
    slices = list(row_chunks(rows, limit))
    sizes = [part.stop - part.start for part in slices]
    assert [row for part in slices for row in range(part.start, part.stop)] == list(range(rows))
    assert all(part.start % 16 == 0 for part in slices)
    assert all(size <= limit for size in sizes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 16 * len(sizes)
