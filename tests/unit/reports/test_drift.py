"""The drift report on clips whose figures are known."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.reports.drift import MEASURED_FRAMES, ClipFigures, describe_drift, measure_clips


def chequered(dark, light, num_frames=1, size=8):
    """[T, H, W, 3] uint8: a chequerboard; dark and light are a level or one for each colour."""
    board = (torch.arange(size)[:, None] + torch.arange(size)) % 2
    pair = [torch.as_tensor(level, dtype=torch.float32).expand(3) for level in (dark, light)]
    return torch.where(board[..., None] == 0, *pair).to(torch.uint8).expand(num_frames, -1, -1, -1).clone()


def level(*values, num_frames=1):
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3).repeat_interleave(num_frames, 0)


def test_mean_and_spread_of_each_colour():
    (clip,) = measure_clips([chequered([10, 20, 30], [30, 20, 50], num_frames=4)])
    assert clip.mean == pytest.approx((20, 20, 40))
    assert clip.std == pytest.approx((10, 0, 10))
    assert clip.num_frames == 4


def test_spread_counts_changes_over_time():
    (clip,) = measure_clips([level(10, 30)])
    assert clip.mean == pytest.approx((20, 20, 20))
    assert clip.std == pytest.approx((10, 10, 10))


def test_jump_is_over_the_border_and_step_inside():
    first, second = measure_clips([level(10, 12, 14), level(24, 25, 26)])
    assert (first.jump, first.step) == (None, 2)
    assert (second.jump, second.step) == (10, 1)


def test_clip_of_one_frame_has_no_step():
    assert measure_clips([level(10), level(13)])[1] == ClipFigures(1, (13, 13, 13), (0, 0, 0), 0.0, 3.0, 0.0)


def test_sharpness_is_that_of_a_chequerboard_and_independent_of_contrast():
    """Each pixel of the board differs from its four neighbours by the whole contrast, twice its standard deviation: 4 * 2."""
    figures = measure_clips([chequered(100, 120), chequered(50, 200), level(7)])
    assert [clip.sharpness for clip in figures] == [pytest.approx(800, rel=1e-4), pytest.approx(800, rel=1e-4), 0]


def test_blur_lowers_the_sharpness():
    sharp = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1)
    before, after = measure_clips([picture.permute(0, 2, 3, 1).to(torch.uint8) for picture in (sharp, blurred)])
    assert after.sharpness < 0.5 * before.sharpness


def test_long_clips_are_measured_at_evenly_spread_frames_with_both_ends():
    frames = level(*range(61))
    (clip,) = measure_clips([frames])
    assert MEASURED_FRAMES == 16
    assert clip.mean == pytest.approx((30, 30, 30))
    assert clip.step == 1
    frames[4:-4:4] = 200  # every frame that is measured but the ends
    assert measure_clips([frames])[0].mean[0] == pytest.approx((14 * 200 + 60) / 16)


def test_clips_are_taken_one_by_one():
    taken = []

    def clips():
        for number in range(3):
            taken.append(number)
            yield level(number)

    assert len(measure_clips(clips())) == 3
    assert taken == [0, 1, 2]


# The report


def drifting(num_clips=5):
    return measure_clips(chequered(100 + 2 * clip, 140 + 4 * clip, num_frames=16) for clip in range(num_clips))


def test_report_has_a_row_for_each_clip_with_its_time():
    rows = describe_drift(drifting()).splitlines()
    assert rows[0].split() == ["clip", "time", "s", "mean", "R", "G", "B", "spread", "R", "G", "B", "sharpness", "jump", "step"]
    assert rows[1].split() == ["1", "0.00", *["120.0"] * 3, *["20.0"] * 3, "800.0", "-", "0.00"]
    assert rows[5].split() == ["5", "4.00", *["132.0"] * 3, *["24.0"] * 3, "800.0", "3.00", "0.00"]
    assert len({len(row) for row in rows[:6]}) == 1


def test_times_at_25_frames_per_second():
    assert describe_drift(drifting(), 25).splitlines()[5].split()[1] == "2.56"


def test_report_says_what_it_comes_to():
    text = describe_drift(drifting())
    assert "mean from the first clip to the last: red +12.0 (+3.00 per clip), green +12.0 (+3.00 per clip), blue +12.0" in text
    assert "spread from the first clip to the last: red +4.0 (+1.00 per clip)" in text
    assert "Largest jump: 3.00 at the start of clip 2" in text


def test_report_of_one_clip_has_no_drift():
    text = describe_drift(drifting(1))
    assert "one clip, so nothing can drift" in text
    assert "Largest jump" not in text
