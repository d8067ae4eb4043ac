"""Video files, judged by decoding them: size, frames, rate, colours, sound, sync, and nothing left behind on failure."""

import os
import sys
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
import torchaudio
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter, VideoWriterError, _to_rgb

MP4 = FORMATS["mp4 (h264)"]
WEBM = FORMATS["webm (vp9)"]
HEVC = FORMATS["mp4 (h265)"]
LOSSLESS = FORMATS["mkv (ffv1, lossless)"]
LOSSY = [MP4, WEBM, HEVC]
each_format = pytest.mark.parametrize("video_format", FORMATS.values(), ids=lambda video_format: video_format.video_codec)


class Decoded:
    """A video file, decoded as a player would."""

    def __init__(self, path):
        with av.open(str(path)) as container:
            self.metadata = dict(container.metadata)
            self.duration_s = container.duration / av.time_base
            video = container.streams.video[0]
            self.average_rate = video.average_rate
            self.codecs = [stream.codec_context.codec.canonical_name for stream in container.streams]
            self.audio_duration_s = None
            frames, sounds = [], []
            for frame in container.decode():
                (frames if isinstance(frame, av.VideoFrame) else sounds).append(frame)
            if sounds:
                stream = container.streams.audio[0]
                self.audio_duration_s = float(stream.duration * stream.time_base) if stream.duration else None
        self.frames = frames
        self.times_s = [float(frame.pts * frame.time_base) for frame in frames]
        self.rate = sounds[0].sample_rate if sounds else None
        self.audio_start_s = float(sounds[0].pts * sounds[0].time_base) if sounds else None
        self.waveform = np.concatenate([samples_of(frame) for frame in sounds], axis=1) if sounds else None


def samples_of(frame):
    """[C, T] in -1..1."""
    samples = frame.to_ndarray()
    if frame.format.is_planar:
        return samples
    return samples.reshape(-1, frame.layout.nb_channels).T / (2**31 if frame.format.name == "s32" else 1)


def speech_like(num_channels, num_samples, seed=0):
    noise = torch.randn(num_channels, 1, num_samples, generator=torch.Generator().manual_seed(seed))
    if num_samples == 0:
        return noise[:, 0]
    kernel = torch.hann_window(12)[None, None]
    return torch.nn.functional.conv1d(noise, kernel / kernel.sum(), padding=6)[:, 0, :num_samples] * 0.3


def flat_frames(levels, height=48, width=64):
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, height, width, 3)


def offset_s(decoded, reference, rate):
    """Delay of the decoded sound against the reference, by cross-correlation, and how alike the two are."""
    sound = decoded.waveform[0]
    if decoded.rate != rate:
        reference = torchaudio.functional.resample(reference, rate, decoded.rate)
    reference = reference.numpy()
    size = 2 * max(len(sound), len(reference))
    correlation = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size)), size)
    lag = int(correlation.argmax())
    lag -= size if lag > size // 2 else 0
    return lag / decoded.rate + decoded.audio_start_s, correlation.max() / np.sqrt((sound**2).sum() * (reference**2).sum())


def write(path, frames, *, fps=16, video_format=MP4, quality=18, **options):
    height, width = frames.shape[1:3]
    with VideoWriter(path, width=width, height=height, fps=fps, video_format=video_format, quality=quality, **options) as writer:
        for start in range(0, len(frames), 7):
            writer.write(frames[start : start + 7])
    return Decoded(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "song.mp4"


CASES = [
    (16, 16000, 1, 42),
    (16, 48000, 2, 33),
    (16, 8000, 1, 25),
    (24, 44100, 2, 25),
    (25, 32000, 1, 50),
    (30, 22050, 2, 31),
    (Fraction(30000, 1001), 44100, 1, 61),
    (16, 48000, 1, 1),
    (16, 48000, 1, 2),
]


@each_format
@pytest.mark.parametrize(("fps", "rate", "num_channels", "num_frames"), CASES)
def test_decoded_video_has_what_was_put_in(tmp_path, video_format, fps, rate, num_channels, num_frames):
    waveform = speech_like(num_channels, round(num_frames * rate / fps))
    levels = [40 + 5 * (index % 35) for index in range(num_frames)]
    path = tmp_path / f"song.{video_format.container}"
    decoded = write(path, flat_frames(levels), fps=fps, video_format=video_format, audio=(waveform, rate))
    assert os.listdir(tmp_path) == [path.name]
    assert decoded.codecs == [video_format.video_codec, video_format.audio_codec]

    assert len(decoded.frames) == num_frames
    assert decoded.average_rate == fps
    tick = 1e-4 if video_format.container == "mp4" else 0.0011  # Matroska stores whole milliseconds
    assert decoded.times_s == pytest.approx([float(index / Fraction(fps)) for index in range(num_frames)], abs=tick)
    for frame, level in zip(decoded.frames, levels, strict=True):
        assert (frame.width, frame.height, frame.format.name) == (64, 48, video_format.pixel_format)
        assert np.abs(frame.to_ndarray(format="gray").astype(int) - level).max() <= 3

    frame_s = float(1 / Fraction(fps))
    length_s = num_frames * frame_s
    assert decoded.waveform.shape[0] == num_channels
    assert decoded.waveform.shape[1] / decoded.rate == pytest.approx(length_s, abs=frame_s)
    assert decoded.duration_s == pytest.approx(length_s, abs=0.011)
    if video_format.container == "mp4":
        assert decoded.audio_duration_s == pytest.approx(length_s, abs=0.002)
    delay_s, likeness = offset_s(decoded, waveform[0], rate)
    assert abs(delay_s) < 0.001
    assert likeness > 0.9


@each_format
def test_flash_and_click_meet(tmp_path, video_format):
    flashes, rate = (0, 31, 77), 44100
    levels = [235 if index in flashes else 16 for index in range(96)]
    waveform = torch.zeros(1, 6 * rate)
    for index in flashes:
        start = round(index * rate / 16)
        waveform[:, start : start + 400] = torch.sin(torch.arange(400) * 0.3)
    decoded = write(tmp_path / "a", flat_frames(levels), video_format=video_format, audio=(waveform, rate))
    seen = [time for time, frame in zip(decoded.times_s, decoded.frames, strict=True) if frame.to_ndarray(format="gray").mean() > 120]
    loud = np.flatnonzero(np.abs(decoded.waveform[0]) > 0.3) / decoded.rate
    heard = [loud[0], *loud[1:][np.diff(loud) > 0.5]]
    assert seen == pytest.approx([index / 16 for index in flashes], abs=0.001)
    assert heard == pytest.approx(seen, abs=0.005)


def test_stereo_channels_stay_apart(path):
    waveform = torch.cat([speech_like(1, 32000), torch.zeros(1, 32000)])
    decoded = write(path, flat_frames([99] * 16), audio=(waveform, 32000))
    left, right = (decoded.waveform**2).mean(axis=1)
    assert left > 1000 * right


@pytest.mark.parametrize("num_samples", [0, 1, 24000, 96000])
def test_sound_is_cut_or_filled_to_the_length_of_the_frames(path, num_samples):
    decoded = write(path, flat_frames([99] * 16), audio=(speech_like(1, num_samples), 48000))
    assert decoded.audio_duration_s == pytest.approx(1.0, abs=0.002)
    sounding = decoded.waveform[0, :48000]
    assert np.abs(sounding[num_samples + 2048 :]).max(initial=0) < 1e-3
    if num_samples > 20000:
        assert np.abs(sounding[:20000]).max() > 0.05


def test_unusable_samples_become_silence(path):
    waveform = speech_like(1, 48000)
    waveform[0, 20000:22000] = float("nan")
    waveform[0, 30000] = float("inf")
    decoded = write(path, flat_frames([99] * 16), audio=(waveform, 48000))
    assert len(decoded.frames) == 16
    assert np.isfinite(decoded.waveform).all()


@pytest.mark.parametrize("waveform", [torch.zeros(16000), torch.zeros(0, 16000), torch.zeros(6, 16000), torch.zeros(1, 1, 16000)])
def test_a_waveform_of_another_shape_is_refused(tmp_path, path, waveform):
    with pytest.raises(ValueError, match=r"\[1 or 2 channels, samples\]"):
        write(path, flat_frames([99]), audio=(waveform, 16000))
    assert not os.listdir(tmp_path)


def test_video_without_sound(path):
    decoded = write(path, flat_frames([99] * 5))
    assert decoded.codecs == ["h264"]
    assert len(decoded.frames) == 5


def test_sound_is_written_along_with_the_frames(path):
    """Neither frames nor sound pile up in memory: what was given is on the disk, but for what the encoder looks ahead."""
    frames = torch.randint(0, 256, (8, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    audio = (speech_like(2, 20 * 48000), 48000)
    with VideoWriter(path, width=96, height=96, fps=16, video_format=MP4, quality=18, audio=audio) as writer:
        for _ in range(40):
            writer.write(frames)
        written = writer.part_path.stat().st_size
    assert written > 0.7 * path.stat().st_size
    with av.open(str(path)) as container:
        packets = sorted((packet for packet in container.demux() if packet.dts is not None), key=lambda packet: packet.pos)
    dts_s = [float(packet.dts * packet.time_base) for packet in packets]
    assert max(before - after for before, after in pairwise(dts_s)) < 1
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


@pytest.mark.parametrize(("video_format", "quality"), [(MP4, 0), (MP4, 18), (HEVC, 18), (WEBM, 18), (LOSSLESS, 18)])
def test_equal_frames_and_sound_give_equal_files(tmp_path, video_format, quality):
    pictures = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    frames = torch.nn.functional.interpolate(pictures, (96, 96), mode="bicubic").movedim(1, -1)  # noise alone hides what x264 forgets
    files = set()
    for name in ("a", "b", "c"):
        write(tmp_path / name, frames, video_format=video_format, quality=quality, audio=(speech_like(1, 40_000), 16_000))
        files.add((tmp_path / name).read_bytes())
    assert len(files) == 1


def test_lossless_keeps_every_bit(tmp_path):
    frames = torch.randint(0, 256, (20, 47, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    waveform = speech_like(2, 20_000)
    decoded = write(tmp_path / "a.mkv", frames, video_format=LOSSLESS, audio=(waveform, 16_000))
    for image, frame in zip(frames, decoded.frames, strict=True):
        assert np.array_equal(frame.to_ndarray(format="rgb24")[:47], image.numpy())
    assert decoded.waveform.shape == (2, 20_000)
    assert np.abs(decoded.waveform - waveform.numpy()).max() < 2**-23


# Pictures


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (47, 63)])
def test_odd_sizes_repeat_the_last_row_and_column(path, height, width):
    image = torch.zeros(height, width, 3, dtype=torch.uint8)
    image[:, -1:] = 200
    image[-1:] = 200
    frame = write(path, image.expand(4, -1, -1, -1), quality=1).frames[-1]
    assert (frame.height, frame.width) == (48, 64)
    grey = frame.to_ndarray(format="gray").astype(int)
    assert grey[:, -1].min() > 180
    assert grey[-1].min() > 180
    assert grey[:-3, :-3].max() < 20


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 150, 120)])
def test_colours_are_bt709(path, colour):
    red, green, blue = colour
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = [16 + 219 / 255 * luma, 128 + 224 / 255 * (blue - luma) / 1.8556, 128 + 224 / 255 * (red - luma) / 1.5748]
    decoded = write(path, torch.tensor(colour, dtype=torch.uint8).expand(3, 48, 64, 3), quality=5)
    frame = decoded.frames[0]
    assert [int(np.array(plane).view(np.uint8)[0]) for plane in frame.planes] == pytest.approx(expected, abs=2)
    assert (frame.colorspace, frame.color_range) == (1, 1)
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc) == (1, 1)


def test_floats_are_clamped_and_rounded_to_the_nearest_level():
    """Rounded down they were half a level too dark in each generation."""
    image = torch.tensor([-0.5, 0.0, 0.501, 0.9999, 1.0, 7.0]).view(1, 2, 3)
    assert _to_rgb(image)[0].tolist() == [[0, 0, 128], [255, 255, 255]]
    assert _to_rgb(image.to(torch.float16)).dtype == np.uint8


def test_float_frames_equal_the_same_bytes(tmp_path):
    frames = torch.randint(0, 256, (4, 48, 64, 3), dtype=torch.uint8)
    write(tmp_path / "a.mp4", frames)
    write(tmp_path / "b.mp4", (frames.double() / 255 + 1e-6).float())
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_larger_quality_number_makes_a_smaller_file(tmp_path):
    frames = torch.randint(0, 256, (16, 48, 64, 3), dtype=torch.uint8)
    for video_format in LOSSY:
        sizes = []
        for quality in (5, 30, 51):
            write(tmp_path / "a", frames, quality=quality, video_format=video_format)
            sizes.append((tmp_path / "a").stat().st_size)
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > 2 * sizes[-1]


@each_format
def test_metadata(tmp_path, video_format):
    metadata = {"prompt": '{"1": "naïve 漢字 \\" quote"}', "workflow": '{"nodes": "' + "x" * 300_000 + '"}'}
    found = write(tmp_path / "a", flat_frames([99] * 2), video_format=video_format, metadata=metadata).metadata
    names = str.lower if video_format.container == "mp4" else str.upper  # Matroska writes its tags in capitals
    assert {name: found[names(name)] for name in metadata} == metadata


# Failure


def open_writer(path, **options):
    return VideoWriter(path, width=64, height=48, fps=16, video_format=MP4, quality=18, **options)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, GeneratorExit])
def test_an_exception_leaves_no_file_and_keeps_the_old_one(tmp_path, path, error):
    path.write_bytes(b"old")

    def write_and_fail():
        with open_writer(path, audio=(speech_like(1, 48000), 48000)) as writer:
            writer.write(flat_frames([99] * 60))
            assert sorted(os.listdir(tmp_path)) == ["song.mp4", "song.part.mp4", "song.part.mp4.lock"]
            raise error

    with pytest.raises(error):
        write_and_fail()
    assert os.listdir(tmp_path) == ["song.mp4"]
    assert path.read_bytes() == b"old"


def test_interrupt_while_encoding(tmp_path, path, monkeypatch):
    def interrupted(image):
        raise KeyboardInterrupt

    writer = open_writer(path)
    monkeypatch.setitem(VideoWriter.write.__globals__, "_to_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.write(flat_frames([99]))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("shape", [(2, 48, 66, 3), (2, 48, 64, 4), (48, 64, 3)])
def test_frames_of_another_shape_are_refused(tmp_path, path, shape):
    with pytest.raises(ValueError, match=r"\[T, 48, 64, 3\]"), open_writer(path) as writer:
        writer.write(torch.zeros(shape, dtype=torch.uint8))
    assert not os.listdir(tmp_path)


def test_no_frames_no_file(tmp_path, path):
    with pytest.raises(ValueError, match="no frames"), open_writer(path, audio=(speech_like(1, 48000), 48000)):
        pass
    assert not os.listdir(tmp_path)


def test_close_and_abort_may_follow_close(path):
    writer = open_writer(path)
    writer.write(flat_frames([99]))
    writer.close()
    writer.close()
    writer.abort()
    assert len(Decoded(path).frames) == 1
    with pytest.raises(ValueError, match="closed"):
        writer.write(flat_frames([99]))


def test_missing_folder(tmp_path):
    with pytest.raises(VideoWriterError, match=r"cannot write .*the folder .*gone does not exist"):
        open_writer(tmp_path / "gone" / "a.mp4")
    assert not os.listdir(tmp_path)


def test_a_folder_in_the_way_does_not_cost_the_video(tmp_path, path):
    path.mkdir()
    with pytest.raises(VideoWriterError, match="complete, but could not be named"), open_writer(path) as writer:
        writer.write(flat_frames([99]))
    assert sorted(os.listdir(tmp_path)) == ["song.mp4", "song.part.mp4", "song.part.mp4.complete"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user who can be refused")
def test_folder_that_cannot_be_written(tmp_path, path):
    tmp_path.chmod(0o500)
    with pytest.raises(VideoWriterError, match="Permission denied"):
        open_writer(path)


@contextmanager
def largest_file(num_bytes):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@each_format
@pytest.mark.parametrize("part", [0.0001, 0.3, 0.6, 0.999])
def test_no_space(tmp_path, path, part, video_format):
    """The disk refuses to let the file grow: at the header, in the middle, and while the last bytes are written."""
    frames = torch.randint(0, 256, (64, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    audio = (speech_like(1, 64000), 16000)
    write(path, frames, video_format=video_format, audio=audio)
    whole = path.read_bytes()
    with largest_file(int(part * len(whole))), pytest.raises(VideoWriterError, match=r"cannot write .*song\.mp4: File too large"):
        write(path, frames, video_format=video_format, audio=audio)
    assert os.listdir(tmp_path) == ["song.mp4"]
    assert path.read_bytes() == whole
