"""Which frame and which sound: exact integers for every clip."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from wan_s2v_pack.wan_s2v_model.audio.features import (
    WAV2VEC_HOP,
    WAV2VEC_WINDOW,
    num_audio_frames,
    num_audio_rows,
    num_wav2vec_frames,
    row_of_frame,
)
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline

RECORDED = json.loads((Path(__file__).parents[1] / "audio" / "data" / "audio_rows_25fps.json").read_text())
RATE_HZ = 16_000
CLIP_LENGTHS = (80, 48, 16, 12, 4)
LENGTHS = [*range(1, 20 * RATE_HZ, 4999), *(k * RATE_HZ + d for k in (1, 5, 10, 15) for d in (-81, -80, -1, 0, 1, 79, 80, 400, 500))]


def plan(num_samples, rate_hz=RATE_HZ, **options):
    return plan_timeline(num_samples, rate_hz, -(-num_samples * RATE_HZ // rate_hz), **options)


def clip_lengths(timeline):
    return [timeline.clip_frames(clip) for clip in range(timeline.num_clips)]


def slot_of_frame(timeline, frame):
    """(clip, slot) whose decoded frame is shown as `frame`, found by counting through the clips."""
    for clip in range(timeline.num_clips):
        cut = timeline.dropped_frames if clip == 0 else 0
        if frame < timeline.frames_per_clip - cut:
            return clip, frame + cut
        frame -= timeline.frames_per_clip - cut
    raise AssertionError("beyond the last clip")


# Tables


@pytest.mark.parametrize(
    ("num_frames", "frames_per_clip", "free_start", "expected"),
    [
        (1, 80, True, [1]),
        (77, 80, True, [77]),  # one whole clip
        (78, 80, True, [77, 1]),
        (80, 80, True, [77, 3]),  # 5 s
        (157, 80, True, [77, 80]),
        (158, 80, True, [77, 80, 1]),
        (160, 80, True, [77, 80, 3]),  # 10 s
        (397, 80, True, [77, 80, 80, 80, 80]),
        (400, 80, True, [77, 80, 80, 80, 80, 3]),
        (390, 80, True, [77, 80, 80, 80, 73]),
        (80, 80, False, [80]),
        (81, 80, False, [80, 1]),
        (160, 80, False, [80, 80]),
        (400, 80, False, [80] * 5),
        (45, 48, True, [45]),
        (160, 48, True, [45, 48, 48, 19]),
        (160, 48, False, [48, 48, 48, 16]),
        (29, 16, True, [13, 16]),
        (32, 16, True, [13, 16, 3]),
        (32, 16, False, [16, 16]),
        (21, 12, True, [9, 12]),
        (57, 12, True, [9, 12, 12, 12, 12]),
        (5, 4, True, [1, 4]),
    ],
)
def test_aligned_clips(num_frames, frames_per_clip, free_start, expected):
    timeline = plan(num_frames * 1000, frames_per_clip=frames_per_clip, free_start=free_start)
    assert timeline.num_frames == num_frames
    assert clip_lengths(timeline) == expected


@pytest.mark.parametrize(
    ("num_samples", "free_start", "expected"),
    [
        (1600, True, [1]),
        (64_000, True, [64]),
        (80_000, True, [77]),  # 5 s: the last 3 frames of sound are lost
        (80_079, True, [77]),
        (80_080, True, [77, 3]),  # 5.005 s: an extra clip
        (96_000, True, [77, 19]),
        (116_800, True, [77, 39]),  # 7.3 s -> 116 frames, as `-shortest` leaves
        (160_000, True, [77, 80]),
        (160_080, True, [77, 80, 3]),
        (160_720, True, [77, 80, 3]),  # 10.045 s
        (400_000, True, [77, 80, 80, 80, 80]),
        (80_000, False, [80]),
        (80_080, False, [80, 0]),  # the extra clip shows nothing
        (160_000, False, [80, 80]),
        (160_080, False, [80, 80, 0]),
    ],
)
def test_official_clips(num_samples, free_start, expected):
    assert clip_lengths(plan(num_samples, sync_mode="official", free_start=free_start)) == expected


# samples at 16 kHz, clips of the reference for clips of 80, 48, 16 and 12 frames, first slot without sound
REFERENCE_CLIPS = [
    (1600, (1, 1, 1, 1), 1),
    (16_000, (1, 1, 1, 2), 16),
    (17_600, (1, 1, 2, 2), 17),
    (48_000, (1, 1, 3, 4), 48),
    (65_680, (1, 2, 5, 6), 65),
    (79_999, (1, 2, 5, 7), 80),
    (80_000, (1, 2, 5, 7), 80),
    (80_079, (1, 2, 5, 7), 80),
    (80_080, (2, 2, 6, 7), 80),
    (80_400, (2, 2, 6, 7), 80),
    (96_000, (2, 2, 6, 8), 96),
    (116_800, (2, 3, 8, 10), 116),
    (131_280, (2, 3, 9, 11), 131),
    (144_000, (2, 3, 9, 12), 144),
    (160_000, (2, 4, 10, 14), 160),
    (160_080, (3, 4, 11, 14), 160),
    (160_400, (3, 4, 11, 14), 160),
    (240_000, (3, 5, 15, 20), 240),
    (270_480, (4, 6, 17, 23), 270),
    (480_000, (6, 10, 30, 40), 480),
    (960_000, (12, 20, 60, 80), 960),
    (1_234_567, (16, 26, 78, 103), 1234),
]


@pytest.mark.parametrize(("num_samples", "clips", "num_audio_frames"), REFERENCE_CLIPS)
def test_official_mode_counts_as_the_reference(num_samples, clips, num_audio_frames):
    timelines = [plan(num_samples, sync_mode="official", frames_per_clip=n) for n in (80, 48, 16, 12)]
    assert tuple(timeline.num_clips for timeline in timelines) == clips
    assert {timeline.num_audio_frames for timeline in timelines} == {num_audio_frames}


@pytest.mark.parametrize("seconds", [5, 10, 15, 60])
def test_only_official_mode_makes_a_silent_clip_at_a_multiple(seconds):
    num_samples = seconds * RATE_HZ + 80
    official = plan(num_samples, sync_mode="official", free_start=False)
    aligned = plan(num_samples, free_start=False)
    assert official.audio_frames(official.num_clips - 1) == [None] * 80
    assert (official.num_clips, aligned.num_clips) == (seconds // 5 + 1, seconds // 5)


@pytest.mark.parametrize(
    ("sync_mode", "max_clips", "expected"),
    [
        ("aligned", 1, [77]),
        ("aligned", 2, [77, 80]),
        ("aligned", 3, [77, 80, 3]),
        ("aligned", 99, [77, 80, 3]),
        ("official", 1, [77]),
        ("official", 2, [77, 80]),
        ("official", 99, [77, 80]),
    ],
)
def test_max_clips_shortens_the_video(sync_mode, max_clips, expected):
    timeline = plan(160_000, sync_mode=sync_mode, max_clips=max_clips)
    assert clip_lengths(timeline) == expected
    assert timeline.num_frames == sum(expected)


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_any_sample_rate(rate_hz):
    timeline = plan(10 * rate_hz, rate_hz)
    assert (timeline.num_frames, timeline.num_audio_frames, timeline.num_clips) == (160, 160, 3)


@pytest.mark.parametrize(("num_samples", "num_frames"), [(1, 1), (499, 1), (1499, 1), (1500, 2), (1501, 2), (2500, 2), (2501, 3)])
def test_aligned_video_is_as_long_as_the_sound_to_half_a_frame(num_samples, num_frames):
    assert plan(num_samples).num_frames == num_frames


def test_length_comes_from_the_sound_that_is_played():
    timeline = plan_timeline(48_000, 48_000, 32_000)
    assert timeline.num_frames == 16
    assert timeline.num_audio_frames == 32


# Rules that hold for every length


@pytest.mark.parametrize("frames_per_clip", CLIP_LENGTHS)
@pytest.mark.parametrize("free_start", [True, False])
@pytest.mark.parametrize("sync_mode", ["aligned", "official"])
def test_every_frame_is_shown_once(sync_mode, free_start, frames_per_clip):
    for num_samples in LENGTHS:
        timeline = plan(num_samples, sync_mode=sync_mode, free_start=free_start, frames_per_clip=frames_per_clip)
        lengths = clip_lengths(timeline)
        assert sum(lengths) == timeline.num_frames <= timeline.num_generated_frames
        assert [timeline.first_frame(clip) for clip in range(1, timeline.num_clips) if lengths[clip]] == [
            sum(lengths[:clip]) for clip in range(1, timeline.num_clips) if lengths[clip]
        ]
        assert timeline.first_frame(0) == 0
        assert timeline.num_generated_frames == timeline.num_clips * frames_per_clip - (3 if free_start else 0)


@pytest.mark.parametrize("frames_per_clip", CLIP_LENGTHS)
@pytest.mark.parametrize("free_start", [True, False])
def test_aligned_video_has_the_length_of_the_sound_and_no_wasted_clip(free_start, frames_per_clip):
    for num_samples in LENGTHS:
        timeline = plan(num_samples, free_start=free_start, frames_per_clip=frames_per_clip)
        assert timeline.num_frames == max(1, round(num_samples * 16 / RATE_HZ))
        assert min(clip_lengths(timeline)) >= 1


@pytest.mark.parametrize("frames_per_clip", CLIP_LENGTHS)
@pytest.mark.parametrize(
    ("sync_mode", "free_start", "lead"),
    [("aligned", True, 0), ("aligned", False, 0), ("official", True, 3), ("official", False, 0)],
)
def test_sound_that_conditions_each_frame(sync_mode, free_start, lead, frames_per_clip):
    for num_samples in LENGTHS[::7]:
        timeline = plan(num_samples, sync_mode=sync_mode, free_start=free_start, frames_per_clip=frames_per_clip)
        slots = [timeline.audio_frames(clip) for clip in range(timeline.num_clips)]
        assert {len(clip) for clip in slots} == {frames_per_clip}
        for frame in range(timeline.num_frames):
            clip, slot = slot_of_frame(timeline, frame)
            heard = frame + lead
            assert slots[clip][slot] == (heard if heard < timeline.num_audio_frames else None)


def test_features_reach_to_the_last_frame_but_two():
    for num_samples in range(800, 20 * RATE_HZ, 37):
        frames = num_audio_frames(num_audio_rows(num_wav2vec_frames(num_samples)))
        assert -2 <= frames - round(Fraction(num_samples, 1000)) <= 1


def test_aligned_mode_repeats_the_first_sound_before_the_start():
    assert plan(160_000).audio_frames(0)[:5] == [0, 0, 0, 0, 1]
    assert plan(160_000).audio_frames(1)[0] == 77
    assert plan(160_000, sync_mode="official").audio_frames(1)[0] == 80


def test_sound_before_a_clip():
    assert plan(160_000).audio_history(0) == [0] * 73
    assert plan(160_000).audio_history(1) == list(range(4, 77))
    assert plan(160_000, sync_mode="official").audio_history(1) == list(range(7, 80))
    assert plan(160_000, free_start=False).audio_history(1) == list(range(7, 80))
    assert plan(160_000, frames_per_clip=16).audio_history(2) == [*[0] * 45, *range(1, 29)]
    assert plan(16_000, frames_per_clip=16).audio_history(1)[-3:] == [10, 11, 12]
    assert plan(100).audio_history(0) == [None] * 73


@pytest.mark.parametrize("frames_per_clip", CLIP_LENGTHS)
@pytest.mark.parametrize("sync_mode", ["aligned", "official"])
def test_sound_before_a_clip_is_that_of_the_clips_before_it(sync_mode, frames_per_clip):
    timeline = plan(12 * RATE_HZ + 400, sync_mode=sync_mode, frames_per_clip=frames_per_clip)
    heard = timeline.audio_frames(0)[:1] * 73
    for clip in range(timeline.num_clips):
        assert timeline.audio_history(clip) == heard[-73:]
        heard += timeline.audio_frames(clip)


def test_past_the_end_there_is_no_sound():
    assert plan(80_000).audio_frames(1)[:4] == [77, 78, 79, None]
    assert plan(100).audio_frames(0) == [None] * 80


def test_latent_frames():
    assert [plan(16_000, frames_per_clip=n).num_latent_frames for n in (80, 48, 12)] == [20, 12, 3]


def test_clips_begin_where_the_one_before_ends():
    assert plan(160_000).clip_starts_s == [0, 77 / 16, 157 / 16]
    assert plan(160_000, free_start=False).clip_starts_s == [0, 5]
    assert plan(160_000).seconds == 10


# 25 frames per second


@pytest.mark.parametrize(("num_rows", "case"), RECORDED.items())
def test_rows_of_the_official_live_code(num_rows, case):
    """Recorded: clips of 48 for so many rows at 30 Hz, and the row of every frame, -1 where there is none."""
    hidden = next(count for count in range(10_000) if num_audio_rows(count) == int(num_rows))
    samples = WAV2VEC_WINDOW + (hidden - 1) * WAV2VEC_HOP
    timeline = plan(samples, sync_mode="official", frames_per_clip=48, fps=25)
    frames = [frame for clip in range(timeline.num_clips) for frame in timeline.audio_frames(clip)]
    assert timeline.num_clips == case["clips"]
    assert [-1 if frame is None else row_of_frame(frame, 25) for frame in frames] == case["rows"]


def test_length_and_starts_at_25_frames_per_second():
    timeline = plan(160_000, frames_per_clip=48, fps=25)
    assert (timeline.num_frames, timeline.seconds, timeline.num_clips) == (250, 10.0, 6)
    assert timeline.clip_starts_s[:3] == [0, 45 / 25, 93 / 25]


def test_frame_rate_is_16_where_nothing_is_said():
    assert plan(160_000).fps == 16
