"""What is read from a file: when its frames and samples play, how loud and how bright they are."""

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import ENVELOPE_HZ, GRID, PictureReader, StreamTiming, read_sound

RATE = 48_000
FPS = 16
SECONDS = 3


def ignore():
    """No progress is shown."""


def tone(start_s=1.0, end_s=1.5, level=0.5):
    """A square wave: its root mean square is its level."""
    time = np.arange(SECONDS * RATE) / RATE
    wave = np.where(np.arange(SECONDS * RATE) // 50 % 2, level, -level)
    return np.where((time >= start_s) & (time < end_s), wave, 0).astype(np.float32)


def write(path, frames=None, audio=None, video_format="mkv (ffv1, lossless)"):
    frames = torch.zeros(SECONDS * FPS, 32, 64, 3) if frames is None else frames
    height, width = frames.shape[1:3]
    options = {"width": width, "height": height, "fps": FPS, "video_format": FORMATS[video_format], "quality": 10}
    with VideoWriter(path, **options, audio=None if audio is None else (torch.from_numpy(audio)[None], RATE)) as writer:
        writer.write(frames)
    return path


def write_sound(path, codec, layout, blocks, sample_format):
    """Write blocks of samples [channels, T], each at its own second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.codec_context.layout, stream.codec_context.format = layout, sample_format
        for start_s, samples in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, round(start_s * RATE), Fraction(1, RATE)
            resampler = av.AudioResampler(sample_format, layout, RATE)
            container.mux([packet for part in resampler.resample(frame) for packet in stream.encode(part)])
        container.mux(stream.encode(None))
    return path


def loud_seconds(sound):
    """First and last second that is loud."""
    bins = np.flatnonzero(sound.loudness > 0.25)
    return sound.loudness_start_s + bins[0] / ENVELOPE_HZ, sound.loudness_start_s + (bins[-1] + 1) / ENVELOPE_HZ


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_begins_at_0_and_its_sound_is_where_it_plays(name, tmp_path):
    path = write(tmp_path / f"video.{FORMATS[name].container}", audio=tone(), video_format=name)
    sound, reader = read_sound(path, ignore), PictureReader(path)
    assert len(list(reader.frames())) == SECONDS * FPS
    assert (sound.codec, sound.rate_hz, sound.channels) == (FORMATS[name].audio_codec, RATE, 1)
    assert (reader.facts.codec, reader.facts.width, reader.facts.height) == (FORMATS[name].video_codec, 64, 32)
    assert float(reader.facts.fps) == pytest.approx(FPS)
    assert reader.facts.seconds == pytest.approx(SECONDS, abs=0.05)
    for time in (sound.time, reader.time):
        assert time.first_s == pytest.approx(0, abs=0.002)
        assert time.duration_s == pytest.approx(SECONDS, abs=0.03)
        assert time.drift_s == pytest.approx(0, abs=0.002)
    assert loud_seconds(sound) == pytest.approx((1.0, 1.5), abs=0.006)
    assert sound.loudness.max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("codec", "sample_format"),
    [("pcm_u8", "u8"), ("pcm_s16le", "s16"), ("pcm_s32le", "s32"), ("pcm_f32le", "flt"), ("pcm_f64le", "dbl"), ("flac", "s16")],
)
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_every_kind_of_sample_has_its_loudness(codec, sample_format, layout, tmp_path):
    samples = np.stack([tone(), -tone()][: 2 if layout == "stereo" else 1])
    blocks = [(start / RATE, samples[:, start : start + 4096]) for start in range(0, samples.shape[1], 4096)]
    sound = read_sound(write_sound(tmp_path / "sound.mkv", codec, layout, blocks, sample_format), ignore)
    assert loud_seconds(sound) == pytest.approx((1.0, 1.5), abs=1e-6)
    assert sound.loudness[220:280] == pytest.approx(0.5, abs=0.01)
    assert sound.loudness[:190] == pytest.approx(0, abs=0.01)


def test_sound_that_begins_late_and_has_a_gap(tmp_path):
    block = np.full((1, 4800), 0.5)
    blocks = [(0.5 + 0.1 * number + (0.3 if number >= 5 else 0.0), block) for number in range(10)]
    sound = read_sound(write_sound(tmp_path / "sound.mkv", "pcm_s16le", "mono", blocks, "s16"), ignore)
    assert sound.time.first_s == pytest.approx(0.5, abs=0.001)
    assert sound.time.duration_s == pytest.approx(1.3, abs=0.002)
    assert sound.time.drift_s == pytest.approx(0.3, abs=0.002)
    assert sound.time.greatest_jump_s == pytest.approx(0.3, abs=0.002)
    loud = sound.loudness > 0.25
    edges = sound.loudness_start_s + (np.flatnonzero(np.diff(loud.astype(int))) + 1) / ENVELOPE_HZ
    assert loud_seconds(sound) == pytest.approx((0.5, 1.8), abs=0.006)
    assert edges == pytest.approx([1.0, 1.3], abs=0.006)


def test_sound_that_begins_hours_late_takes_no_memory_for_them(tmp_path):
    block = np.full((1, 4800), 0.5)
    sound = read_sound(write_sound(tmp_path / "sound.mkv", "pcm_s16le", "mono", [(30_000.0, block)], "s16"), ignore)
    assert sound.loudness_start_s == pytest.approx(30_000, abs=0.002)
    assert len(sound.loudness) == ENVELOPE_HZ // 10


def test_timestamps_that_cannot_be_meant_are_refused(tmp_path):
    block = np.full((1, 4800), 0.5)
    path = write_sound(tmp_path / "sound.mkv", "pcm_s16le", "mono", [(0.0, block), (90_000.0, block)], "s16")
    with pytest.raises(ValueError, match="jump to 90000 s"):
        read_sound(path, ignore)


def test_damaged_pictures_are_said(tmp_path):
    path = write(tmp_path / "video.mkv", torch.rand(SECONDS * FPS, 32, 64, 3))
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data), 5000):
        data[place : place + 500] = bytes(500)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="The video is damaged"):
        list(PictureReader(path).frames())


def test_no_sound_is_none(tmp_path):
    assert read_sound(write(tmp_path / "video.mkv"), ignore) is None


def test_brightness_is_that_of_the_cells(tmp_path):
    frames = torch.zeros(2, 160, 320, 3)
    frames[1, :80, :160] = 1.0  # the upper left quarter
    (first_s, dark), (second_s, lit) = PictureReader(write(tmp_path / "video.mkv", frames)).frames()
    assert (first_s, second_s) == pytest.approx((0, 1 / FPS), abs=0.001)
    assert dark == pytest.approx(0, abs=1)
    cells = lit.reshape(GRID, GRID)
    half = GRID // 2
    assert cells[: half - 1, : half - 1] == pytest.approx(255, abs=1)
    assert cells[half + 1 :] == pytest.approx(0, abs=1)
    assert cells[:, half + 1 :] == pytest.approx(0, abs=1)


def test_thumbnail_is_the_first_picture(tmp_path):
    frames = torch.zeros(2, 480, 1024, 3)
    frames[0, ..., 0] = 1.0
    reader = PictureReader(write(tmp_path / "video.mkv", frames))
    assert reader.thumbnail is None
    list(reader.frames())
    assert reader.thumbnail.shape == (240, 512, 3)
    assert (reader.thumbnail.float() - torch.tensor([255.0, 0, 0])).abs().max() <= 2


def test_bytes_are_read_like_a_file(tmp_path):
    data = BytesIO(write(tmp_path / "video.mkv", audio=tone()).read_bytes())
    assert loud_seconds(read_sound(data, ignore)) == pytest.approx((1.0, 1.5), abs=0.006)
    assert len(list(PictureReader(data).frames())) == SECONDS * FPS


def test_reading_ends_with_what_the_progress_raises(tmp_path):
    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_sound(write(tmp_path / "video.mkv", audio=tone()), cancel)


def test_sound_without_picture_is_refused(tmp_path):
    path = write_sound(tmp_path / "sound.mkv", "flac", "mono", [(0, tone()[None])], "s16")
    with pytest.raises(ValueError, match="has no picture"):
        PictureReader(path)


@pytest.mark.parametrize("read", [PictureReader, lambda path: read_sound(path, ignore)], ids=["picture", "sound"])
def test_other_files_are_refused(read, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="cannot be read"):
        read(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path / "missing.mp4")


def test_playtime_of_frames():
    time = StreamTiming()
    assert (time.first_s, time.duration_s, time.drift_s, time.least_step_s) == (None, 0, 0, None)
    for start in (0.1, 0.2, 0.25, 0.35):
        time.add(start, 0.1)
    assert (time.first_s, time.num_frames) == (0.1, 4)
    assert [time.end_s, time.duration_s, time.content_s, time.drift_s] == pytest.approx([0.45, 0.35, 0.4, -0.05])
    assert [time.least_step_s, time.greatest_step_s, time.greatest_jump_s] == pytest.approx([0.05, 0.1, -0.05])
