"""The sync report: what it says of which figures, and the way from a file to them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from wan_s2v_pack.tests.sync_measurements import FPS, RATE, even, measurement, offset, with_sound
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.reports.canvas import WIDTH
from wan_s2v_pack.wan_s2v_model.reports.sync import LIMITS, fact_lines, findings, measure_sync, sync_text
from wan_s2v_pack.wan_s2v_model.reports.sync_offset import Estimate
from wan_s2v_pack.wan_s2v_model.reports.sync_plot import draw_sync
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import Sound, StreamTiming


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
        (measurement(sound=Sound("aac", RATE, 2, StreamTiming(), np.zeros(0))), "length: 10.000 s, and no sound that can be decoded"),
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


def at_25_fps(lips):
    found = measurement(offset=lips)
    return replace(found, picture=replace(found.picture, fps=Fraction(25)))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (measurement(), "In sync: viewers notice"),
        (measurement(offset=offset(58.0)), "In sync: viewers notice"),
        (measurement(offset=offset(126.0)), "Out of sync: viewers notice"),
        (measurement(offset=offset(-46.0)), "Out of sync: viewers notice"),
        (measurement(offset=offset(190.0)), "The picture is about 187.5 ms early: the 3 frames of the reference"),
        (at_25_fps(offset(125.0)), "The picture is about 120 ms early: the 3 frames of the reference"),
        (at_25_fps(offset(60.0)), "In sync: viewers notice"),
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
    assert draw_sync(measured).shape[2:] == (WIDTH, 3)


def test_reading_ends_with_what_the_progress_raises(tmp_path):
    def cancel(share):
        raise KeyboardInterrupt

    path = tmp_path / "video.mp4"
    with VideoWriter(path, width=64, height=64, fps=FPS, video_format=FORMATS["mp4 (h264)"], quality=18) as writer:
        writer.write(torch.zeros(20, 64, 64, 3))
    with pytest.raises(KeyboardInterrupt):
        measure_sync(path, cancel)
