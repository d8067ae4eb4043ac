"""Sound of video files by its times, read in a stream."""

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
from wan_s2v_pack.wan_s2v_model.media.sound_reader import SoundReader, open_sound

RATE = 48_000
CODECS = [
    ("mp4", "aac"),
    ("mkv", "flac"),
    ("mkv", "libopus"),
    ("mov", "pcm_s16le"),
    ("ts", "aac"),
    ("mp4", "libmp3lame"),
    ("avi", "pcm_u8"),
]


def tone(seconds, hz=440.0, rate=RATE):
    return (0.5 * np.sin(np.arange(round(seconds * rate)) * (2 * np.pi * hz / rate))).astype(np.float32)


def write_sound(path, waveform, *, codec="flac", start_s=0.0, rate=RATE, layout="mono", gap=None, picture=True):
    """A file with one second of black picture, and [C, T] that begins at `start_s`; `gap` is (sample, seconds of nothing before it)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25) if picture else None
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        if video is not None:
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            for number in range(25):
                frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        for first in range(0, waveform.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform[:, first : first + 1024]), format="fltp", layout=layout)
            late_s = gap[1] if gap and first >= gap[0] else 0
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + round((start_s + late_s) * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read(reader, seconds, step=1000):
    """All samples, in steps as a writer asks for them."""
    end = round(seconds * reader.sample_rate_hz)
    return np.concatenate([reader.read(first, min(end, first + step)).numpy() for first in range(0, end, step)], axis=1)


def onset_s(samples, rate=RATE):
    return int(np.flatnonzero(np.abs(samples) > 0.2)[0]) / rate


@pytest.mark.parametrize(("suffix", "codec"), CODECS)
@pytest.mark.parametrize("start_s", [0.0, 0.4])
def test_a_sound_plays_at_its_time(tmp_path, suffix, codec, start_s):
    if (suffix, start_s) == ("avi", 0.4):
        pytest.skip("AVI has no times: FFmpeg moves the sound to 0 when it writes the file")
    path = write_sound(tmp_path / f"a.{suffix}", tone(0.5)[None], codec=codec, start_s=start_s)
    reader = SoundReader(str(path))
    samples = read(reader, 1.2)
    assert (reader.sample_rate_hz, reader.num_channels, samples.shape) == (RATE, 1, (1, round(1.2 * RATE)))
    assert onset_s(samples[0]) == pytest.approx(start_s, abs=0.03)
    assert np.abs(samples[0, round((start_s + 0.6) * RATE) :]).max() < 0.01
    reader.close()


def test_a_lossless_sound_is_exact_wherever_the_steps_end(tmp_path):
    waveform = np.stack([tone(1), tone(1, 220)])
    path = write_sound(tmp_path / "a.mkv", waveform, layout="stereo")
    for step in (7, 1024, 3001, RATE):
        samples = read(SoundReader(BytesIO(path.read_bytes())), 1.1, step if step > 7 else 997)
        assert np.abs(samples[:, :RATE] - waveform).max() < 2e-5
        assert not samples[:, RATE:].any()


def test_a_gap_is_silence_and_what_follows_plays_at_its_time(tmp_path):
    path = write_sound(tmp_path / "a.mkv", tone(1)[None], codec="pcm_s16le", gap=(24 * 1024, 0.5))
    samples = read(SoundReader(str(path)), 1.5)[0]
    begin = 24 * 1024
    assert not samples[begin + 100 : begin + RATE // 2 - 100].any()
    assert onset_s(samples[begin:]) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize(("start_s", "length_s", "rest_s"), [(0.5, 0.0, 0.5), (0.25, 0.25, 0.25), (0.0, 0.3, 0.3)])
def test_a_part(tmp_path, start_s, length_s, rest_s):
    waveform = np.linspace(0.1, 0.9, RATE, dtype=np.float32)[None]
    path = write_sound(tmp_path / "a.mkv", waveform)
    samples = read(SoundReader(str(path), start_s, length_s), 1.0)[0]
    count = round(rest_s * RATE)
    first = round(start_s * RATE)
    assert np.abs(samples[:count] - waveform[0, first : first + count]).max() < 2e-5
    assert not samples[count:].any()


def test_surround_becomes_stereo_that_does_not_clip(tmp_path):
    path = write_sound(tmp_path / "a.mkv", np.stack([tone(0.5)] * 6) * 1.9, layout="5.1")
    reader = open_sound(str(path))
    samples = read(reader, 0.5)
    assert reader.num_channels == 2
    assert 0.99 < np.abs(samples).max() <= 1.0


def test_a_file_without_sound_is_said(tmp_path, caplog):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert open_sound(str(tmp_path / "a.mp4")) is None
    assert "written without sound: The file has no sound" in caplog.text
