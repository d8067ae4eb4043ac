"""Sounds as people have them: which Load Audio of ComfyUI reads, and what becomes of the others."""

from __future__ import annotations

import os
import struct
import wave

import av
import numpy as np
import pytest
from wan_s2v_pack.cli.predict.object_info import PromptError
from wan_s2v_pack.cli.predict.sound import readable, seconds_of

RATE_HZ, SECONDS = 44_100, 2
NOISE = np.random.default_rng(0).bytes(20_000)
ID3V1 = b"TAG" + bytes(125)


def tone(rate_hz=RATE_HZ):
    return (0.3 * 32767 * np.sin(2 * np.pi * 440 * np.arange(rate_hz * SECONDS) / rate_hz)).astype(np.int16)


def encoded(folder, codec, suffix, rate_hz=RATE_HZ):
    """The bytes of a tone."""
    path = folder / f"tone.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate_hz)
        frame = av.AudioFrame.from_ndarray(tone(rate_hz)[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for made in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(made))
        container.mux(stream.encode(None))
    return path.read_bytes()


def id3(size):
    length = size + 10
    digits = bytes(length >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + digits + b"TIT2" + struct.pack(">I", size) + b"\0\0" + b"\0" + b"x" * (size - 1)


@pytest.fixture
def files(tmp_path):
    """Name -> bytes of a file that ComfyUI's loader refuses, and its right length in seconds."""
    mp3, other = encoded(tmp_path, "libmp3lame", "mp3"), encoded(tmp_path, "libmp3lame", "mp3", 22_050)
    flac, pcm, middle = encoded(tmp_path, "flac", "flac"), encoded(tmp_path, "pcm_s16le", "wav"), len(mp3) // 2
    return {
        "8 bit.wav": (encoded(tmp_path, "pcm_u8", "wav"), SECONDS),
        "joined.mp3": (mp3 + mp3, 2 * SECONDS),
        "joined, other rate.mp3": (mp3 + other, 2 * SECONDS),
        "tag in the middle.mp3": (mp3 + id3(3000) + mp3, 2 * SECONDS),
        "padded.mp3": (mp3 + bytes(50_000), SECONDS),
        "padded in front.mp3": (bytes(3_000_000) + mp3, SECONDS),
        "hole.mp3": (mp3[:middle] + bytes(30_000) + mp3[middle:], SECONDS),
        "noise behind.mp3": (mp3 + NOISE, SECONDS),
        "tag in front.wav": (id3(2000) + pcm, SECONDS),
        "cut.flac": (flac[: len(flac) * 3 // 4], 1.25),
    }


NAMES = (
    *("8 bit.wav", "joined.mp3", "joined, other rate.mp3", "tag in the middle.mp3", "padded.mp3", "padded in front.mp3", "hole.mp3"),
    *("noise behind.mp3", "tag in front.wav", "cut.flac"),
)


def load_audio(path):
    """Rate and mono samples, decoded strictly as Load Audio does it: all of one type, which is not of 8 bits."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate_hz = container.streams.audio[0].rate
    assert {frame.dtype for frame in frames} <= {np.dtype("int16"), np.dtype("int32"), np.dtype("float32"), np.dtype("float64")}
    samples = np.concatenate(frames, axis=1)[0]
    return rate_hz, samples / (1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)


@pytest.mark.parametrize("name", NAMES)
def test_what_ffmpeg_reads_is_converted(name, files, tmp_path):
    """They were uploaded as they are, and the job failed with "[Errno 1094995529]" or "Unsupported wav dtype"."""
    contents, seconds = files[name]
    sound, folder, said = tmp_path / name, tmp_path / "copy", []
    folder.mkdir()
    sound.write_bytes(contents)
    with pytest.raises((av.FFmpegError, AssertionError)):
        load_audio(sound)
    copy = readable(sound, folder, said.append)
    rate_hz, samples = load_audio(copy)
    assert (copy.parent, copy.name, rate_hz) == (folder, f"{sound.stem}.flac", RATE_HZ)
    assert len(samples) / rate_hz == pytest.approx(seconds, abs=0.1)
    assert 0.25 < np.sqrt(2 * np.mean(samples**2)) < 0.31, "as loud as the tone"
    assert len(said) == 1
    assert name in said[0]


def test_conversion_gives_the_same_bytes_again(files, tmp_path):
    """Else the server would take it for another sound, and a run would not go on."""
    (tmp_path / "joined.mp3").write_bytes(files["joined.mp3"][0])
    copies = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        copies.append(readable(tmp_path / "joined.mp3", tmp_path / str(number), lambda _text: None).read_bytes())
    assert copies[0] == copies[1]


@pytest.mark.parametrize(
    ("codec", "suffix"), [("pcm_s16le", "wav"), ("pcm_s24le", "wav"), ("libmp3lame", "mp3"), ("flac", "flac"), ("aac", "m4a")]
)
def test_usual_files_are_uploaded_as_they_are(codec, suffix, tmp_path):
    encoded(tmp_path, codec, suffix)
    sound = tmp_path / f"tone.{suffix}"
    assert readable(sound, tmp_path, pytest.fail) == sound


def test_mp3_with_a_tag_at_each_end_is_uploaded_as_it_is(tmp_path):
    sound = tmp_path / "tagged.mp3"
    sound.write_bytes(id3(5000) + encoded(tmp_path, "libmp3lame", "mp3") + ID3V1)
    assert readable(sound, tmp_path, pytest.fail) == sound


def test_what_holds_no_sound(tmp_path):
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width = stream.height = 64
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    (tmp_path / "text.wav").write_text("no sound")
    with wave.open(str(tmp_path / "empty.wav"), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
    words = {
        "silent.mp4": "has no sound",
        "text.wav": "is no sound that FFmpeg can read",
        "empty.wav": "holds no sound that FFmpeg can decode",
    }
    for name, text in words.items():
        with pytest.raises(PromptError, match=f"{name} {text}"):
            readable(tmp_path / name, tmp_path, pytest.fail)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_makes_nobody_wait(tmp_path):
    os.mkfifo(tmp_path / "song.mp3")
    for read in (seconds_of, lambda path: readable(path, tmp_path, print)):
        with pytest.raises(PromptError, match="no plain file"):
            read(tmp_path / "song.mp3")


def test_a_playlist_leads_nowhere(tmp_path):
    """Before, the files that it names were read, and uploaded as a FLAC."""
    (tmp_path / "secret.wav").write_bytes(encoded(tmp_path, "pcm_s16le", "wav"))
    (tmp_path / "song.mp3").write_text("ffconcat version 1.0\nfile secret.wav\n")
    with pytest.raises(PromptError, match="is no sound that FFmpeg can read"):
        readable(tmp_path / "song.mp3", tmp_path, print)
