"""IMAGE and AUDIO of other nodes, and other video files, as the source of a video file."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.sound_reader import SoundReader
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_reader import VideoReader
from wan_s2v_pack.wan_s2v_model.media.video_source import VideoSource, constant_rate, source_of_file, source_of_images, sync_problem
from wan_s2v_pack.wan_s2v_model.media.video_writer import write_video as write_video_file

PICTURES = torch.rand(20, 32, 48, 4, generator=torch.Generator().manual_seed(0))
SURROUND = {"waveform": torch.full((1, 6, 20_000), 0.1), "sample_rate": 16_000}


def test_source_of_images_has_three_colours_an_exact_rate_and_a_sound_in_stereo():
    source = source_of_images(PICTURES, SURROUND, 29.97)
    assert (source.width, source.height, source.fps) == (48, 32, Fraction(30_000, 1001))
    assert torch.equal(torch.cat(list(source.frames)), PICTURES[..., :3])
    waveform, rate = source.sound
    assert (waveform.shape, rate) == ((2, 20_000), 16_000)


def test_images_without_sound():
    assert source_of_images(PICTURES, None, 16.0).sound is None


def test_broken_sound_is_refused():
    with pytest.raises(ValueError, match="audio contains NaN or infinite samples"):
        source_of_images(PICTURES, {"waveform": torch.full((1, 1, 9), float("nan")), "sample_rate": 16_000}, 16.0)


class Cancelled(BaseException):
    pass


def test_cancel_between_frames_leaves_no_file(tmp_path):
    looks = []

    def look():
        looks.append(None)
        if len(looks) == 2:
            raise Cancelled

    source = source_of_images(PICTURES, None, 16.0)
    with pytest.raises(Cancelled):
        write_video_file(tmp_path / "video.mkv", source, FORMATS["mkv (ffv1, lossless)"], 18, {}, look)
    assert not list(tmp_path.iterdir())


# A video file, written again


def write_video(path, times_s, *, sound_start_s=0.0, sound_s=2.0, sar=None, size=(64, 48)):
    """Pictures that are lighter one by one at their times, with a click train: one click at the time of each tenth picture."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"qp": "4"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        if sar:
            video.codec_context.sample_aspect_ratio = sar
        sound = container.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=48_000)
        sound.layout = "mono"
        for number, second in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 20 + 4 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = 0.5 * np.sin(np.arange(round(sound_s * 48_000)) * 0.05)
        for first in range(0, len(samples), 1024):
            part = np.ascontiguousarray((samples[None, first : first + 1024] * 32767).astype(np.int16))
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, first + round(sound_start_s * 48_000), Fraction(1, 48_000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return str(path)


def written(source, path):
    """Levels of the frames of a source, as a file shows them, and its sound, read to the end."""
    write_video_file(path, source, FORMATS["mkv (ffv1, lossless)"], 18, {})
    with VideoReader(str(path)) as reader:
        levels = (reader.read(range(len(reader.times))) * 255).mean(dim=(1, 2, 3))
        sound = SoundReader(str(path)).read(0, round(reader.duration_s * 48_000))[0]
        return reader, ((levels - 20) / 4).round().int().tolist(), sound


def shown_at(times_s, second):
    return max(0, sum(time <= second for time in times_s) - 1)


UNEVEN = [number / 25 for number in range(15)] + [1.5 + number / 25 for number in range(15)] + [3 + number / 12 for number in range(12)]
EVEN = [number / 25 for number in range(40)]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("times_s", [EVEN, UNEVEN, [1 + second for second in EVEN]], ids=["even", "uneven", "late"])
def test_a_file_is_written_again_by_time(tmp_path, suffix, times_s):
    """At the average rate an uneven file ran up to 1.5 s ahead of its sound, and a late picture began too early."""
    path = write_video(tmp_path / f"a.{suffix}", times_s)
    with source_of_file(path) as source:
        reader, numbers, _ = written(source, tmp_path / "b.mkv")
    assert source.fps == 25
    assert len(numbers) == pytest.approx((times_s[-1] + 0.04) * 25, abs=1.1)
    lead_s = 1024 / 48_000 if suffix == "ts" and times_s[0] else 0  # the file starts with what AAC puts before its sound
    wrong = [frame for frame, number in enumerate(numbers) if number != shown_at(times_s, (frame + 0.5) / 25 - lead_s)]
    assert wrong == []
    assert reader.late_s == 0


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize("start_s", [0.0, 0.6])
def test_a_late_sound_stays_late(tmp_path, suffix, start_s):
    path = write_video(tmp_path / f"a.{suffix}", EVEN, sound_start_s=start_s, sound_s=0.5)
    with source_of_file(path) as source:
        _, _, sound = written(source, tmp_path / "b.mkv")
    loud = np.flatnonzero(sound.abs().numpy() > 0.2)
    assert loud[0] / 48_000 == pytest.approx(start_s, abs=0.03)
    assert loud[-1] / 48_000 == pytest.approx(start_s + 0.5, abs=0.03)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_part_of_a_file_counts_from_where_the_file_starts(tmp_path, suffix):
    """A transport stream starts at 1.4 s in its own time."""
    path = write_video(tmp_path / f"a.{suffix}", EVEN)
    with source_of_file(path, 0.4, 0.8) as source:
        _, numbers, _ = written(source, tmp_path / "b.mkv")
    assert numbers == list(range(10, 30))


def test_frames_of_a_file_are_decoded_as_they_are_written(tmp_path):
    path = write_video(tmp_path / "a.mp4", EVEN)
    with source_of_file(path) as source:
        sizes = [len(frames) for frames in source.frames]
    assert sizes == [8] * 5


def test_a_picture_has_the_shape_in_which_it_is_displayed(tmp_path):
    path = write_video(tmp_path / "a.mp4", EVEN, sar=Fraction(4, 3))
    with source_of_file(path) as source:
        assert (source.width, source.height) == (85, 48)


@pytest.mark.parametrize(
    ("times_s", "fps", "expected"),
    [
        ([number / 25 for number in range(99)], 25, 25),
        ([round(number * 1001 / 30) / 1000 for number in range(99)], Fraction(30000, 1001), Fraction(30000, 1001)),
        ([round(number * 1000 / 24) / 1000 for number in range(99)], Fraction(1000), 24),  # a file that knows milliseconds only
        ([number / 30 + (2 if number > 40 else 0) for number in range(99)], 19, 30),
        ([0], 25, 25),
        ([number / 1000 for number in range(99)], 1000, 240),
    ],
)
def test_the_rate_of_a_file(times_s, fps, expected):
    times = [Fraction(second).limit_denominator(100_000) for second in times_s]
    assert constant_rate(times, Fraction(fps)) == pytest.approx(expected, rel=1e-3)


def test_files_of_rounded_down_levels_say_so_and_are_read_half_a_level_lighter(tmp_path):
    """A run keeps levels that were rounded down; unmarked, each continuation from a saved file was darker by half a level."""
    levels = torch.full((4, 48, 64, 3), 100, dtype=torch.uint8)
    for is_rounded_down, expected in ((False, 100.0), (True, 100.5)):
        for name, video_format in FORMATS.items():
            path = tmp_path / f"{is_rounded_down} {name}.{video_format.container}"
            write_video_file(path, VideoSource(64, 48, Fraction(16), iter([levels]), None, is_rounded_down), video_format, 1, {})
            with VideoReader(str(path)) as reader:
                assert reader.rounded_down == is_rounded_down
                assert (reader.read([1, 2]).mean() * 255).item() == pytest.approx(expected, abs=0.02 if "ffv1" in name else 0.5)
            with source_of_file(str(path)) as again:
                assert again.rounded_down == is_rounded_down


def images_and_sound(num_frames, seconds, fps):
    audio = {"waveform": torch.zeros(1, 1, round(seconds * 16_000)), "sample_rate": 16_000}
    return source_of_images(torch.rand(num_frames, 8, 8, 3), audio, fps)


@pytest.mark.parametrize(
    ("num_frames", "fps", "text"),
    [
        (13, 24.0, "not in sync: 13 frames at 24 fps last 0.54 s, and the sound 1.62 s. At 8 fps both"),
        (76, 16.0, "not in sync: 76 frames at 16 fps last 4.75 s, and the sound 1.62 s. At 48 fps both"),
    ],
    ids=["interpolation bypassed", "Change Frame Rate bypassed"],
)
def test_picture_and_sound_of_other_lengths_are_told(num_frames, fps, text):
    assert sync_problem(images_and_sound(num_frames, 1.625, fps)).startswith(text)


@pytest.mark.parametrize(("num_frames", "fps"), [(26, 16.0), (39, 24.0), (76, 48.0), (27, 16.0)])
def test_picture_and_sound_of_about_the_same_length_are_in_sync(num_frames, fps):
    assert sync_problem(images_and_sound(num_frames, 1.625, fps)) is None


def test_what_has_no_sound_is_not_out_of_sync():
    assert sync_problem(source_of_images(torch.rand(3, 8, 8, 3), None, 16.0)) is None


# Tracks that are kept


def write_with_tracks(path, codecs, seconds=2.0):
    """A video with one sound for each codec, each of a pitch of its own."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=10)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sounds = [container.add_stream(codec, rate=48_000, layout="mono") for codec in codecs]
        for number, sound in enumerate(sounds):
            sound.metadata["language"] = ("eng", "deu", "fra")[number]
        for number in range(round(seconds * 10)):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")))
        container.mux(picture.encode())
        for number, sound in enumerate(sounds):
            wave = 0.3 * np.sin(np.arange(round(seconds * 48_000)) * 2 * np.pi * 200 * (number + 1) / 48_000)
            for start in range(0, len(wave), 960):
                frame = av.AudioFrame.from_ndarray(wave[None, start : start + 960].astype(np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return str(path)


def copied(path, source, container, start_s=0.0, length_s=0.0):
    """Write a video with a sound of its own and the tracks of another; its sounds by codec, language, pitch and seconds."""
    frames = torch.zeros(20, 48, 64, 3, dtype=torch.uint8)
    sound = (0.3 * torch.sin(torch.arange(96_000) * (2 * torch.pi * 1000 / 48_000)))[None]
    video = VideoSource(64, 48, Fraction(10), iter([frames]), (sound, 48_000), tracks_of=(source, start_s, length_s))
    write_video_file(path, video, next(kind for kind in FORMATS.values() if kind.container == container), 18, {})
    found = []
    with av.open(str(path)) as opened:
        for stream in opened.streams.audio:
            opened.seek(0)
            parts = [frame.to_ndarray().mean(axis=0) for frame in opened.decode(stream)]
            wave = np.concatenate(parts)
            pitch = np.argmax(np.abs(np.fft.rfft(wave * np.hanning(len(wave))))) * stream.rate / len(wave)
            found.append((stream.codec_context.name, stream.metadata.get("language"), round(pitch / 100) * 100, len(wave) / stream.rate))
    return found


@pytest.mark.parametrize(
    ("container", "codecs", "kept"),
    [("mp4", ("aac", "aac", "ac3"), 2), ("mkv", ("aac", "flac", "libopus"), 2), ("webm", ("aac", "aac"), 0)],
)
def test_sounds_but_the_first_are_copied_where_the_container_takes_them(container, codecs, kept, tmp_path, caplog):
    source = write_with_tracks(tmp_path / "source.mkv", codecs)
    first, *others = copied(tmp_path / f"copy.{container}", source, container)
    assert first[2] == 1000
    assert [(language, pitch) for _, language, pitch, _ in others] == [("deu", 400), ("fra", 600)][:kept]
    assert all(abs(seconds - 2) < 0.1 for *_, seconds in others)
    assert ("is left out: it cannot be copied to .webm" in caplog.text) == (container == "webm")


def test_of_a_part_of_a_file_the_same_part_of_its_tracks_is_copied(tmp_path):
    source = write_with_tracks(tmp_path / "source.mkv", ("aac", "flac"), seconds=6)
    _, (*_, pitch, seconds) = copied(tmp_path / "copy.mkv", source, "mkv", 2.0, 1.5)
    assert pitch == 400
    assert abs(seconds - 1.5) < 0.15
