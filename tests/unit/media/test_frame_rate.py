"""Another frame rate for the same duration: exact picture numbers and counts."""

import itertools
from fractions import Fraction

import pytest
from wan_s2v_pack.wan_s2v_model.media.frame_rate import convert, exact_rate, rate_by_sound

TARGETS = [16, 24, 25, 30, 48, 50, 60]
FACTORS = [1, 2, 3, 4, 8]
LENGTHS = [1, 2, 16, 157, 160]  # frames at 16 fps


@pytest.mark.parametrize(
    ("num_source", "source", "target", "pictures"),
    [
        (4, 16, 16, [0, 1, 2, 3]),
        (4, 16, 48, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),
        (4, 16, 24, [0, 1, 1, 2, 3, 3]),
        (10, 48, 48, [*range(10), 9, 9]),  # 4 frames, interpolated x3
        (10, 48, 24, [0, 2, 4, 6, 8, 9]),
        (10, 48, 16, [0, 3, 6, 9]),  # the frames it was made from
        (12, 48, 24, [0, 2, 4, 6, 8, 10]),  # made of 4 frames, too, by a node that goes on behind the last one
        (7, 32, 24, [0, 1, 3, 4, 5, 6]),
        (7, 32, 16, [0, 2, 4, 6]),
        (7, 32, 48, [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 6, 6]),
        (3, 25, 25, [0, 1, 2]),
        (5, 50, 25, [0, 2, 4]),
        (7, 75, 25, [0, 3, 6]),
    ],
)
def test_pictures(num_source, source, target, pictures):
    assert convert(num_source, source, target).pictures == pictures


@pytest.mark.parametrize(("num_frames", "factor", "target"), [*itertools.product(LENGTHS, FACTORS, TARGETS)])
@pytest.mark.parametrize("goes_on", [False, True])
def test_duration_stays(num_frames, factor, target, goes_on):
    num_source = num_frames * factor if goes_on else (num_frames - 1) * factor + 1
    count = len(convert(num_source, 16 * factor, target).pictures)
    assert abs(Fraction(count, target) - Fraction(num_frames, 16)) <= Fraction(1, 2 * target)


@pytest.mark.parametrize(("factor", "target"), [*itertools.product(FACTORS, TARGETS)])
def test_no_moment_is_off_by_more_than_half_of_the_shorter_picture_time(factor, target):
    source = 16 * factor
    conversion = convert(159 * factor + 1, source, target)
    limit = Fraction(1, 2 * max(source, target))
    moments = range(len(conversion.pictures) - target // 16)  # without the last frame of the video, which has no successor
    if source >= target:  # each moment shows the picture nearest to it
        offsets = [Fraction(conversion.pictures[moment], source) - Fraction(moment, target) for moment in moments]
    else:  # each picture appears at the moment nearest to its own
        first = {conversion.pictures[moment]: moment for moment in reversed(moments)}
        offsets = [Fraction(number, source) - Fraction(moment, target) for number, moment in first.items()]
    assert max(map(abs, offsets)) <= limit


@pytest.mark.parametrize(
    ("num_source", "source", "target", "repeated", "held", "left_out"),
    [
        (160, 16, 16, 0, 0, 0),
        (160, 16, 24, 80, 0, 0),
        (160, 16, 25, 90, 0, 0),
        (160, 16, 30, 140, 0, 0),
        (478, 48, 48, 0, 2, 0),
        (478, 48, 24, 0, 0, 238),
        (478, 48, 60, 119, 3, 0),
        (160, 16, 60, 440, 0, 0),
        (637, 64, 30, 0, 1, 338),
    ],
)
def test_counts(num_source, source, target, repeated, held, left_out):
    conversion = convert(num_source, source, target)
    assert (conversion.num_repeated, conversion.num_held, conversion.num_left_out) == (repeated, held, left_out)
    steps = [after - before for before, after in itertools.pairwise(conversion.pictures)]
    assert steps.count(0) == repeated + held


@pytest.mark.parametrize(
    ("num_source", "source", "target", "says"),
    [
        (160, 16, 24, ["160 pictures at 16 fps became 240 at 24 fps, 10.00 s", "80 only repeat", "interpolation node"]),
        (478, 48, 24, ["478 pictures at 48 fps became 240 at 24 fps, 10.00 s", "238 were left out", "none is repeated."]),
        (478, 48, 48, ["the last one is held for 2 more", "none is repeated."]),
        (16, 16, 16, ["16 pictures at 16 fps became 16 at 16 fps, 1.00 s; none is repeated."]),
    ],
)
def test_report(num_source, source, target, says):
    report = convert(num_source, source, target).describe()
    assert [text for text in says if text not in report] == []


def test_rates_of_film_and_television_are_exact():
    assert convert(160, 30000 / 1001, 30).source_fps == Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("rounded", "exact"),
    [(29.97, "30000/1001"), (23.976, "24000/1001"), (59.94, "60000/1001"), (25, "25"), (24.5, "49/2"), (16.0, "16"), (1.0, "1")],
)
def test_rates_with_few_decimals_stand_for_exact_ones(rounded, exact):
    assert exact_rate(rounded) == Fraction(exact)


@pytest.mark.parametrize(
    ("num_pictures", "seconds", "fps"),
    [
        (26, 1.625, 16),
        (76, 1.625, 48),
        (78, 1.625, 48),
        (101, 1.625, 64),
        (39, 1.625, 24),
        (1, 1 / 16, 16),
        (3, 1 / 16, 48),
        (5, 0.0, 16),
        (41, 1.64, 25),
        (81, 1.64, 50),
    ],
    ids=["as decoded", "interpolated", "with the last one", "x4", "converted", "one frame", "one frame x3", "no sound", "live", "live x2"],
)
def test_rate_by_the_sound(num_pictures, seconds, fps):
    """Of 26 frames an interpolation x3 makes 76, which are at 48 fps, not at 46.8."""
    assert rate_by_sound(num_pictures, seconds) == fps
