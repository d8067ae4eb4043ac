"""Token positions and rotations."""

import math

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions


def segments(num_latent_frames, height, width):
    """Positions of video, reference and the three motion buckets."""
    positions = token_positions(num_latent_frames, height, width, with_motion=True)
    frame = (height // 2) * (width // 2)
    sizes = (num_latent_frames * frame, frame, frame, (height // 4) * (width // 4), 4 * (height // 8) * (width // 8))
    assert positions.shape == (sum(sizes), 3)
    return positions.split(sizes)


def axes(segment):
    """The distinct times, rows and columns, in order of appearance."""
    return [list(dict.fromkeys(segment[:, axis].tolist())) for axis in range(3)]


def test_positions_of_the_example_in_the_specification():
    video, reference, near, middle, far = (axes(segment) for segment in segments(20, 60, 104))
    assert video == [list(range(20)), list(range(30)), list(range(52))]
    assert reference == [[30], list(range(30)), list(range(52))]
    assert near == [[-1], list(range(30)), list(range(52))]
    assert middle[0] == [-3]
    assert middle[1] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 29]
    assert middle[2][:3] == [0, 2, 4]
    assert middle[2][-1] == 51
    assert far[0] == [-19, -14, -9, -4]
    assert far[1] == [0, 4, 9, 14, 19, 24, 29]
    assert far[2] == [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51]


def test_tokens_run_over_columns_then_rows_then_time():
    video, _, _, _, far = segments(2, 16, 16)
    assert video[:10, 2].tolist() == [*range(8), 0, 1]
    assert video[:10, 1].tolist() == [0] * 8 + [1, 1]
    assert video[[0, 63, 64], 0].tolist() == [0, 0, 1]
    assert far[:5].tolist() == [[-19, 0, 0], [-19, 0, 7], [-19, 7, 0], [-19, 7, 7], [-14, 0, 0]]


@pytest.mark.parametrize("size", range(8, 401, 8))
def test_pooled_positions_are_whole_numbers_rounded_down(size):
    *_, middle, far = segments(1, size, 16)
    for segment, count in ((middle, size // 4), (far, size // 8)):
        expected = [i * (size // 2 - 1) // (count - 1) for i in range(count)] if count > 1 else [0]
        assert axes(segment)[1] == expected


def test_positions_without_motion_end_with_the_reference():
    with_motion = token_positions(3, 8, 12, with_motion=True)
    without = token_positions(3, 8, 12, with_motion=False)
    assert without.shape == (4 * 24, 3)
    assert torch.equal(without, with_motion[: 4 * 24])


def test_angles_split_a_head_into_22_time_21_row_21_column_channels():
    positions = torch.tensor([[5, 0, 0], [0, 7, 0], [0, 0, 11], [-19, 3, 2]])
    cos, sin = rope_table(positions, 128)
    assert cos.shape == sin.shape == (4, 64)
    assert cos.dtype == sin.dtype == torch.float32
    for row, (time, y, x) in enumerate(positions.tolist()):
        angles = [p * 10_000 ** (-j / m) for p, m in ((time, 22), (y, 21), (x, 21)) for j in range(m)]
        torch.testing.assert_close(cos[row], torch.tensor([math.cos(a) for a in angles]), atol=1e-7, rtol=0)
        torch.testing.assert_close(sin[row], torch.tensor([math.sin(a) for a in angles]), atol=1e-7, rtol=0)


def test_angles_are_exact_far_away():
    cos, _ = rope_table(torch.tensor([[0, 12_345, 0]]), 128)
    assert cos[0, 22 + 1].item() == pytest.approx(math.cos(12_345 * 10_000 ** (-1 / 21)), abs=1e-7)
