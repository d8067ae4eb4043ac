"""Pictures of video files by their times, read in a stream."""

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_reader import VideoReader

RATES = [16, 24, 25, Fraction(30000, 1001), 30, 60]
NUM_PICTURES = 40
CODECS = [  # suffix, encoder, pixel format, options
    ("mp4", "libx264", "yuv420p", {"qp": "4", "bf": "3"}),
    ("mkv", "ffv1", "bgr0", {}),
    ("webm", "libvpx-vp9", "yuv420p", {"crf": "10", "deadline": "realtime", "cpu-used": "8"}),
    ("mp4", "libx265", "yuv420p", {"x265-params": "qp=4:log-level=error"}),
    ("avi", "libx264", "yuv420p", {"qp": "4", "bf": "3"}),  # whose times are those of storing
    ("h264", "libx264", "yuv420p", {"qp": "4", "bf": "3"}),  # without times
    ("ts", "libx264", "yuv420p", {"qp": "4", "bf": "3"}),
    ("gif", "gif", "rgb8", {}),
    ("mov", "prores_ks", "yuv422p10le", {}),
]


def level(number):
    return 20 + 5 * number


def write_video(path, fps, *, times=None, codec=CODECS[0], size=(64, 48), num_pictures=NUM_PICTURES):
    """Grey pictures that show their number; `times` in units of 1/fps."""
    _, encoder, pixel_format, options = codec
    with av.open(path, "w") as container:
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        for number in range(num_pictures):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level(number), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number if times is None else times[number], Fraction(1, fps) if isinstance(fps, int) else 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(pictures):
    """What the pictures show, [T, H, W, 3] -> [T]."""
    return ((pictures.mean(dim=(1, 2, 3)) * 255 - 20) / 5).round().int().tolist()


@pytest.mark.parametrize("fps", RATES)
def test_times_of_a_constant_rate(tmp_path, fps):
    with VideoReader(str(write_video(tmp_path / "video.mp4", fps))) as video:
        assert len(video.times) == NUM_PICTURES
        assert video.fps == pytest.approx(fps, rel=1e-3)
        assert [float(second) for second in video.times] == pytest.approx([float(number / fps) for number in range(NUM_PICTURES)], abs=1e-3)
        assert float(video.duration_s) == pytest.approx(float(NUM_PICTURES / fps), abs=2e-3)


@pytest.mark.parametrize("codec", CODECS, ids=[f"{codec[1]} in {codec[0]}" for codec in CODECS])
def test_every_codec_gives_the_pictures_that_were_written(tmp_path, codec):
    with VideoReader(str(write_video(tmp_path / f"video.{codec[0]}", 25, codec=codec))) as video:
        pictures = video.read(range(NUM_PICTURES))
        assert pictures.dtype == torch.float32
        assert pictures.shape == (NUM_PICTURES, 48, 64, 3)
        assert numbers(pictures) == list(range(NUM_PICTURES))


def test_lossless_pictures_are_exact(tmp_path):
    with VideoReader(str(write_video(tmp_path / "video.mkv", 16, codec=CODECS[1]))) as video:
        assert (video.read([7]) * 255).unique().tolist() == [level(7)]


def test_some_pictures_again_and_backwards(tmp_path):
    with VideoReader(str(write_video(tmp_path / "video.mp4", 25))) as video:
        for wanted in ([0, 0, 1, 5, 5], [5, 6, 39], [38, 39, 0, 1], [3]):
            assert numbers(video.read(wanted)) == wanted


def test_variable_frame_rate(tmp_path):
    times = [number if number < 10 else number + 30 for number in range(NUM_PICTURES)]
    with VideoReader(str(write_video(tmp_path / "video.mkv", 25, times=times, codec=CODECS[1]))) as video:
        assert [float(second) for second in video.times] == pytest.approx([time / 25 for time in times], abs=1e-3)
        assert numbers(video.read([9, 10, 39])) == [9, 10, 39]


@pytest.mark.parametrize(("start_s", "length_s", "expected"), [(0.4, 0, range(10, 40)), (0.0, 0.4, range(10)), (0.4, 0.2, range(10, 15))])
def test_a_part(tmp_path, start_s, length_s, expected):
    path = write_video(tmp_path / "video.mkv", 25, codec=CODECS[1])
    with VideoReader(str(path), start_s, length_s) as video:
        assert video.times[0] == 0
        assert numbers(video.read(range(len(video.times)))) == list(expected)


def test_bytes(tmp_path):
    source = BytesIO(write_video(tmp_path / "video.mp4", 25).read_bytes())
    with VideoReader(source) as video:
        assert numbers(video.read([4, 2])) == [4, 2]


def test_a_file_that_breaks_off_keeps_its_last_picture(tmp_path):
    path = write_video(tmp_path / "video.mkv", 25, codec=CODECS[1])
    with VideoReader(str(path)) as video:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        (last,) = set(numbers(video.read([38, 39])))
        assert 0 < last < 38


def test_odd_sizes_are_decoded_to_the_same_bits_each_time(tmp_path):
    path = write_video(tmp_path / "video.mp4", 25, size=(70, 50))
    reads = []
    for _ in range(3):
        with VideoReader(str(path)) as video:
            reads.append(video.read(range(NUM_PICTURES)))
    assert torch.equal(reads[0], reads[1])
    assert torch.equal(reads[0], reads[2])


def test_the_file_is_closed(tmp_path):
    video = VideoReader(str(write_video(tmp_path / "video.mp4", 25)))
    with video:
        video.read([0])
        assert video._container is not None
    assert video._container is None


def write_sound(path):
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_rubbish(path):
    path.write_bytes(b"no video" * 100)
    return path


@pytest.mark.parametrize(
    ("write", "start_s", "error"),
    [
        (write_rubbish, 0, "The video cannot be read"),
        (lambda path: path.with_name("absent.mp4"), 0, "The video cannot be read"),
        (lambda path: write_sound(path.with_suffix(".wav")), 0, "no picture, only sound"),
        (lambda path: write_video(path, 25), 30, "no pictures in the part"),
    ],
    ids=["rubbish", "absent", "sound", "trimmed away"],
)
def test_what_is_no_video_is_refused(tmp_path, write, start_s, error):
    with pytest.raises(ValueError, match=error):
        VideoReader(str(write(tmp_path / "video.mp4")), start_s)
