"""The offset of picture and sound: right in every setting where there is one, silent where there is none."""

import itertools
import tracemalloc

import numpy as np
import pytest
from wan_s2v_pack.wan_s2v_model.reports.sync_offset import LAGS_MS, MAX_WINDOWS, Estimate, Offset, OffsetMeter

HZ = 200
CELLS = 36
MOUTH = (14, 15, 20, 21)


def syllables(seconds, seed=0):
    """Loudness [T]: bursts of different length and strength, with pauses."""
    generator = np.random.default_rng(seed)
    loudness = np.zeros(round(seconds * HZ))
    start = 0
    while start < len(loudness):
        length = int(generator.integers(12, 60))
        piece = generator.uniform(0.2, 1) * np.hanning(length)
        loudness[start : start + length] += piece[: len(loudness) - start]
        start += length + int(generator.integers(0, 50))
    return loudness


def even_times(seconds, fps):
    return np.arange(round(seconds * fps)) / fps


def shown_loudness(loudness, times, frame_s, lead_s):
    """Mean loudness while each frame is shown, as it would be with the sound `lead_s` later."""
    total = np.concatenate([[0], np.cumsum(loudness**0.5)]) / HZ
    clock = np.arange(len(total)) / HZ
    starts = times + lead_s
    return (np.interp(starts + frame_s, clock, total) - np.interp(starts, clock, total)) / frame_s


def talking(loudness, times, frame_s, lead_s, noise=2.0, seed=0):
    """Brightness [frames, CELLS]: cells of the mouth get darker as the sound gets louder, all cells have noise."""
    brightness = 128 + noise * np.random.default_rng(seed).standard_normal((len(times), CELLS))
    brightness[:, MOUTH] -= 20 * shown_loudness(loudness, times, frame_s, lead_s)[:, None]
    return brightness


def measure(loudness, times, frame_s, brightness):
    meter = OffsetMeter(loudness, HZ, frame_s)
    for time, cells in zip(times, brightness, strict=True):
        meter.add(float(time), cells)
    return meter.result()


def measure_talking(seconds=20, fps=16, lead_s=0.0, seed=0, **options):
    loudness, times = syllables(seconds, seed), even_times(seconds, fps)
    return measure(loudness, times, 1 / fps, talking(loudness, times, 1 / fps, lead_s, seed=seed, **options))


@pytest.mark.parametrize("fps", [16, 24, 25, 30000 / 1001, 60])
@pytest.mark.parametrize("lead_ms", [-187.5, 0, 58, 187.5, 700])
def test_lead_is_found_at_every_frame_rate(fps, lead_ms):
    offset = measure_talking(fps=fps, lead_s=lead_ms / 1000)
    assert offset.is_certain
    assert offset.lead.value_ms == pytest.approx(lead_ms, abs=8)
    assert offset.lead.low_ms - 10 <= lead_ms <= offset.lead.high_ms + 10
    assert offset.at_ends_ms == (offset.lead.value_ms, offset.lead.value_ms)


@pytest.mark.parametrize("seconds", [5, 10])
def test_short_videos_have_a_lead_but_no_drift(seconds):
    offset = measure_talking(seconds, lead_s=0.1)
    assert offset.is_certain
    assert offset.lead.value_ms == pytest.approx(100, abs=15)
    assert offset.drift is None


def test_mouth_region_is_where_the_picture_follows_the_sound():
    region = measure_talking(noise=0.5).region
    assert set(np.flatnonzero(region > 0)) == set(MOUTH)
    assert region.max() == 1


def test_uneven_frames_count_when_they_are_shown():
    loudness = syllables(30)
    times = np.cumsum(np.random.default_rng(1).uniform(0.03, 0.09, 480))
    times = times[times < 29]
    offset = measure(loudness, times, 1 / 16, talking(loudness, times, 1 / 16, 0.12))
    assert offset.lead.value_ms == pytest.approx(120, abs=8)


@pytest.mark.parametrize("drift_ms", [-300, 160])
def test_drift_is_found_and_its_middle_is_the_lead(drift_ms):
    seconds, fps = 60, 16
    loudness, times = syllables(seconds), even_times(seconds, fps)
    lead_s = 0.05 + drift_ms / 1000 * (times / seconds - 0.5)
    offset = measure(loudness, times, 1 / fps, talking(loudness, times, 1 / fps, lead_s))
    assert offset.is_certain
    assert offset.lead.value_ms == pytest.approx(50, abs=15)
    assert offset.drift.value_ms == pytest.approx(drift_ms, abs=40)
    assert offset.at_ends_ms == pytest.approx((50 - drift_ms / 2, 50 + drift_ms / 2), abs=30)


def test_long_videos_keep_their_drift_when_windows_are_joined():
    seconds, fps = 600, 16
    loudness, times = syllables(seconds), even_times(seconds, fps)
    lead_s = 0.2 * (times / seconds - 0.5)
    offset = measure(loudness, times, 1 / fps, talking(loudness, times, 1 / fps, lead_s))
    assert offset.drift.value_ms == pytest.approx(200, abs=40)
    assert offset.lead.value_ms == pytest.approx(0, abs=10)


def test_sound_of_another_video_gives_no_offset():
    times = even_times(10, 16)
    certain = 0
    for seed in range(20):
        brightness = talking(syllables(10, seed), times, 1 / 16, 0.0, seed=seed)
        certain += measure(syllables(10, seed + 1000), times, 1 / 16, brightness).is_certain
    assert certain == 0


def test_lead_beyond_the_range_gives_no_offset():
    assert not measure_talking(30, lead_s=1.5).is_certain


def test_steady_beat_gives_no_offset():
    loudness, times = np.tile(np.hanning(60).tolist() + [0] * 40, 40), even_times(20, 16)
    assert not measure(loudness, times, 1 / 16, talking(loudness, times, 1 / 16, 0.0)).is_certain


@pytest.mark.parametrize(
    ("loudness", "brightness"),
    [
        (np.zeros(4000), np.random.default_rng(0).uniform(0, 255, (320, CELLS))),
        (syllables(20), np.full((320, CELLS), 90.0)),
        (np.zeros(0), np.random.default_rng(0).uniform(0, 255, (320, CELLS))),
    ],
    ids=["silence", "still", "no sound"],
)
def test_nothing_that_changes_gives_nothing(loudness, brightness):
    assert measure(loudness, even_times(20, 16), 1 / 16, brightness) is None


@pytest.mark.parametrize("num_frames", [0, 1, 2, 40])
def test_too_few_frames_give_nothing(num_frames):
    loudness, times = syllables(5), even_times(5, 16)
    brightness = talking(loudness, times, 1 / 16, 0.0)
    assert measure(loudness, times[:num_frames], 1 / 16, brightness[:num_frames]) is None


def test_sound_that_begins_later_than_the_picture_counts_when_it_plays():
    loudness, times = syllables(20), even_times(20, 16)
    meter = OffsetMeter(loudness, HZ, 1 / 16, 0.15)
    for time, cells in zip(times, talking(loudness, times, 1 / 16, 0.0), strict=True):
        meter.add(float(time), cells)
    assert meter.result().lead.value_ms == pytest.approx(150, abs=8)


def test_timestamps_that_go_back_keep_no_frames():
    meter = OffsetMeter(syllables(20), HZ, 1 / 16)
    for frame in range(200):
        meter.add(100.0 - frame / 16, np.full(CELLS, float(frame)))
        assert len(meter._frames) <= 17
    assert meter.result() is None


def test_memory_does_not_grow_with_the_video():
    meter = OffsetMeter(syllables(1), HZ, 1 / 16)
    brightness = np.random.default_rng(0).uniform(0, 255, (64, CELLS))
    sizes = {}
    tracemalloc.start()
    try:
        for frame, cells in zip(range(16 * 1200), itertools.cycle(brightness), strict=False):
            meter.add(frame / 16, cells)
            sizes[frame // 16] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert sizes[1199] < 1.1 * sizes[MAX_WINDOWS - 2]


def test_same_video_gives_the_same_figures():
    first, second = measure_talking(), measure_talking()
    assert first.lead == second.lead
    assert np.array_equal(first.curve, second.curve)


@pytest.mark.parametrize(
    ("value", "low", "high", "height", "certain"),
    [
        (0, -10, 10, 4.0, True),
        (0, -10, 10, 3.9, False),
        (0, -60, 60, 9, True),
        (0, -60, 61, 9, False),
        (990, 990, 990, 9, False),
        (-1000, -1000, -1000, 9, False),
    ],
)
def test_only_a_high_narrow_peak_inside_the_range_is_certain(value, low, high, height, certain):
    offset = Offset(Estimate(value, low, high), None, height, np.zeros(len(LAGS_MS)), np.zeros(CELLS))
    assert offset.is_certain == certain
