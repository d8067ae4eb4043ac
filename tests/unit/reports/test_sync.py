"""The sync report: what it says of which figures, what it draws, and the way from a file to both."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.reports.canvas import BACKGROUND, MARGIN, TEXT, WAVE, WIDTH
from wan_s2v_pack.wan_s2v_model.reports.sync import LIMITS, Measurement, fact_lines, findings, measure_sync, sync_text
from wan_s2v_pack.wan_s2v_model.reports.sync_offset import LAGS_MS, Estimate, Offset
from wan_s2v_pack.wan_s2v_model.reports.sync_plot import HEADER_HEIGHT, PICTURE_BOX, PLOT_HEIGHT, PLOT_LEFT, PLOT_WIDTH, draw_sync
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import GRID, Picture, Playtime, Sound

FPS = 16
RATE = 48_000
MOUTH = 10 * GRID + 7  # a cell


def even(seconds, first_s=0.0, count=160):
    return Playtime(first_s, first_s + seconds, count, seconds, seconds / count, seconds / count)


def offset(lead_ms=0.0, height=9.0, spread_ms=10.0, drift=None):
    region = np.zeros(GRID * GRID)
    region[MOUTH] = 1
    curve = 0.5 * np.exp(-(((LAGS_MS - lead_ms) / 80) ** 2))
    return Offset(Estimate(lead_ms, lead_ms - spread_ms, lead_ms + spread_ms), drift, height, curve, region)


def measurement(**changes):
    picture = Picture("h264", 832, 480, Fraction(FPS), 10.0)
    sound = Sound("aac", RATE, 1, even(10.005), np.zeros(2000))
    usual = Measurement(picture, even(10.0), sound, offset(), torch.full((60, 104, 3), 100, dtype=torch.uint8))
    return replace(usual, **changes)


def with_sound(**changes):
    return measurement(sound=Sound("aac", RATE, 2, replace(even(10.0), **changes), np.zeros(2000)))


def test_facts_are_the_measured_figures():
    assert fact_lines(measurement(offset=offset(12.4, drift=Estimate(-3, -20, 20)))) == [
        "picture: h264, 832 x 480, 16 fps, 160 frames, evenly spaced",
        "sound: aac, 48000 Hz, 1 channel",
        "begin: picture 0.000 s, sound 0.000 s, 0 ms apart",
        "length: picture 10.000 s, sound 10.005 s, +5 ms apart",
        "timestamps: picture 0 ms, sound 0 ms off; greatest jump of the sound 0 ms",
        "lips: picture 12 ms early (95 %: +2 to +22 ms, + is early)",
        "drift: -3 ms from beginning to end (95 %: -20 to +20 ms, + is early)",
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (measurement(sound=None), "sound: none"),
        (measurement(sound=Sound("aac", RATE, 2, Playtime(), np.zeros(0))), "length: 10.000 s, and no sound that can be decoded"),
        (measurement(offset=None), "lips: not measured"),
        (measurement(offset=offset(height=2.94)), "lips: not found; the best peak is 2.9, one that counts 4 or more and narrow"),
        (measurement(offset=offset(-80.0)), "lips: picture 80 ms late (95 %: -90 to -70 ms, + is early)"),
        (measurement(picture_time=replace(even(10.0), least_step_s=0.03, greatest_step_s=0.13)), "160 frames, 30 to 130 ms apart"),
        (measurement(picture_time=even(10.0, count=1)), "1 frames, evenly spaced"),
        (with_sound(first_s=0.021, end_s=10.0), "begin: picture 0.000 s, sound 0.021 s, +21 ms apart"),
        (with_sound(content_s=9.7, greatest_jump_s=0.3), "timestamps: picture 0 ms, sound +300 ms off; greatest jump of the sound +300 ms"),
    ],
)
def test_unusual_facts(given, line):
    assert line in "\n".join(fact_lines(given))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (measurement(), "In sync: viewers notice"),
        (measurement(offset=offset(58.0)), "In sync: viewers notice"),
        (measurement(offset=offset(126.0)), "Out of sync: viewers notice"),
        (measurement(offset=offset(-46.0)), "Out of sync: viewers notice"),
        (measurement(offset=offset(190.0)), "The picture is about 187.5 ms early: the 3 frames of the reference"),
        (measurement(offset=offset(0.0, drift=Estimate(300, 200, 360))), "drift: 150 ms late at the beginning, 150 ms early at the end"),
        (measurement(offset=offset(0.0, drift=Estimate(300, -20, 360))), "In sync: viewers notice"),
        (measurement(offset=offset(0.0, drift=Estimate(20, 20, 20))), "In sync: viewers notice"),
        (measurement(offset=offset(height=3.0)), "Cannot tell: nothing in the picture follows the sound"),
        (measurement(offset=offset(spread_ms=100.0)), "Cannot tell: nothing in the picture follows the sound"),
        (measurement(offset=None), "Not measured: the video is shorter than 4 s"),
        (measurement(sound=None, offset=None), "There is no sound"),
        (measurement(), "Timestamps: picture and sound begin and end together, within one frame."),
        (with_sound(first_s=0.1), "Picture and sound do not begin together: +100 ms apart, more than one frame."),
        (with_sound(end_s=9.5), "Picture and sound do not last together: -500 ms apart, more than one frame."),
        (with_sound(greatest_jump_s=-0.2), "The timestamps of the sound jump by -200 ms"),
    ],
)
def test_findings_say_what_the_figures_mean(given, sentence):
    assert sentence in "\n".join(findings(given))


def test_report_has_the_name_the_figures_the_findings_and_its_limits():
    text = sync_text("song.mp4", measurement())
    paragraphs = text.split("\n\n")
    assert paragraphs[0].splitlines() == ["file: song.mp4", *fact_lines(measurement())]
    assert paragraphs[1].splitlines() == findings(measurement())
    assert tuple(paragraphs[2:]) == LIMITS


# The drawing


def draw(given):
    drawing = draw_sync(given)
    assert drawing.dtype == torch.float32
    assert drawing.shape[0] == 1
    assert drawing.shape[2:] == (WIDTH, 3)
    assert 0 <= drawing.min() <= drawing.max() <= 1
    return (drawing[0] * 255).round().int().numpy()


def where(drawing, colour, tolerance=40):
    rgb = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return (np.abs(drawing - rgb) <= tolerance).all(axis=-1)


def curve_of(drawing):
    top = MARGIN + HEADER_HEIGHT
    return where(drawing[top : top + PLOT_HEIGHT, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH], WAVE)


@pytest.mark.parametrize("lead_ms", [-600.0, 0.0, 187.5, 900.0])
def test_curve_is_highest_at_the_lead_and_marked_there(lead_ms):
    drawing = draw(measurement(offset=offset(lead_ms)))
    rows, columns = np.nonzero(curve_of(drawing))
    expected = (lead_ms + 1000) / 2000 * PLOT_WIDTH
    assert np.mean(columns[rows <= rows.min() + 1]) == pytest.approx(expected, abs=6)
    marked = where(drawing[MARGIN + HEADER_HEIGHT + 12, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH], TEXT)
    assert np.flatnonzero(marked).mean() == pytest.approx(expected, abs=6)


def test_uncertain_offset_has_a_curve_but_no_mark_and_no_region():
    drawing = draw(measurement(offset=offset(300.0, height=2.0)))
    assert curve_of(drawing).any()
    assert not where(drawing[MARGIN + HEADER_HEIGHT + 12, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH], TEXT).any()
    thumbnail = drawing[MARGIN : MARGIN + PICTURE_BOX[1], MARGIN : MARGIN + PICTURE_BOX[0]]
    assert not (thumbnail[..., 2] > thumbnail[..., 0] + 20).any()


def test_mouth_region_is_blue_on_the_picture():
    drawing = draw(measurement())
    thumbnail = drawing[MARGIN : MARGIN + PICTURE_BOX[1], MARGIN : MARGIN + PICTURE_BOX[0]]
    is_picture = ~where(thumbnail, BACKGROUND, 20)
    rows, columns = np.flatnonzero(is_picture.any(axis=1)), np.flatnonzero(is_picture.any(axis=0))
    blue = np.argwhere(thumbnail[..., 2] > thumbnail[..., 0] + 40).mean(axis=0)
    row, column = divmod(MOUTH, GRID)
    assert blue[0] == pytest.approx(rows[0] + (row + 0.5) / GRID * len(rows), abs=3)
    assert blue[1] == pytest.approx(columns[0] + (column + 0.5) / GRID * len(columns), abs=3)


@pytest.mark.parametrize("given", [measurement(offset=None), measurement(sound=None, offset=None)])
def test_without_an_offset_there_is_no_curve(given):
    assert not curve_of(draw(given)).any()


# From a file


def beeping(seconds, lead_frames):
    """Frames whose lower middle flashes with the beeps, `lead_frames` early, and the beeps [1, T]."""
    starts = np.cumsum(np.random.default_rng(0).integers(3, 9, 99))  # frames
    starts = starts[starts < seconds * FPS - 8]
    frames = torch.randint(90, 110, (seconds * FPS, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sound = torch.zeros(1, seconds * RATE)
    for start in starts:
        frames[max(0, start - lead_frames), 40:56, 36:60] -= 60
        sound[:, start * RATE // FPS : (start + 1) * RATE // FPS] = 0.5 * torch.sin(torch.arange(RATE // FPS) * 0.1)
    return frames, sound


@pytest.mark.parametrize(("name", "lead_frames"), [(next(iter(FORMATS)), 0), *((name, 3) for name in FORMATS)])
def test_lead_of_a_file_is_measured_in_every_format(name, lead_frames, tmp_path):
    frames, sound = beeping(8, lead_frames)
    path = tmp_path / f"video.{FORMATS[name].container}"
    with VideoWriter(path, width=96, height=64, fps=FPS, video_format=FORMATS[name], quality=18, audio=(sound, RATE)) as writer:
        writer.write(frames)
    shares = []
    measured = measure_sync(path, shares.append)
    assert measured.offset.is_certain
    assert measured.offset.lead.value_ms == pytest.approx(1000 * lead_frames / FPS, abs=5)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.02)
    expected = "the 3 frames of the reference" if lead_frames else "In sync"
    assert expected in findings(measured)[0]
    assert "begin and end together" in findings(measured)[1]


def test_file_without_sound_has_a_report(tmp_path):
    path = tmp_path / "video.mp4"
    with VideoWriter(path, width=64, height=64, fps=FPS, video_format=FORMATS["mp4 (h264)"], quality=18) as writer:
        writer.write(torch.zeros(20, 64, 64, 3))
    measured = measure_sync(path, lambda share: None)
    assert findings(measured) == ["There is no sound, so there is nothing to compare."]
    assert "20 frames" in sync_text("video.mp4", measured)
    draw(measured)


def test_reading_ends_with_what_the_progress_raises(tmp_path):
    def cancel(share):
        raise KeyboardInterrupt

    path = tmp_path / "video.mp4"
    with VideoWriter(path, width=64, height=64, fps=FPS, video_format=FORMATS["mp4 (h264)"], quality=18) as writer:
        writer.write(torch.zeros(20, 64, 64, 3))
    with pytest.raises(KeyboardInterrupt):
        measure_sync(path, cancel)
