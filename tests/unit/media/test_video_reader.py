"""Pictures of video files by their times, read in a stream."""

from fractions import Fraction
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_reader import VideoReader
from wan_s2v_pack.wan_s2v_model.media.video_source import source_of_images
from wan_s2v_pack.wan_s2v_model.media.video_writer import write_video as write_video_file

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


# Colours


def smooth_pictures(count=10, size=(96, 128)):
    pictures = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(pictures, size, mode="bicubic").movedim(1, -1).clamp(0.05, 0.95)


def exact_rgb(planes, full_range):
    """BT.601 of [Y, U, V] float, in levels."""
    luma, blue, red = planes
    span, offset, chroma = (255, 0, 255) if full_range else (219, 16, 224)
    luma, blue, red = (luma - offset) / span, (blue - 128) / chroma * 1.772, (red - 128) / chroma * 1.402
    return 255 * np.stack([luma + red, luma - (0.299 * red + 0.114 * blue) / 0.587, luma + blue], axis=-1)


@pytest.mark.parametrize(("pixel_format", "full_range"), [("yuv420p", False), ("yuv422p", False), ("yuv444p", False), ("yuv420p", True)])
def test_colours_are_exact_on_average(tmp_path, pixel_format, full_range):
    """They were 1.0 (red, blue) and 1.5 levels (green) too dark."""
    random = np.random.default_rng(0)
    planes = [random.integers(low, high, (16, 16)).repeat(8, 0).repeat(8, 1) for low, high in ((60, 190), (112, 144), (112, 144))]
    step = {"yuv444p": (1, 1), "yuv422p": (1, 2)}.get(pixel_format, (2, 2))
    packed = [planes[0].ravel(), *(plane[:: step[0], :: step[1]].ravel() for plane in planes[1:])]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 128
        stream.pix_fmt = pixel_format
        stream.codec_context.color_range = 2 if full_range else 1
        frame = av.VideoFrame(128, 128, pixel_format)
        for plane, values in zip(frame.planes, packed, strict=True):
            plane.update(values.astype(np.uint8).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with VideoReader(str(tmp_path / "a.mkv")) as video:
        error = video.read([0])[0].numpy() * 255 - exact_rgb([plane.astype(float) for plane in planes], full_range)
    assert np.abs(error.mean(axis=(0, 1))).max() < 0.1


@pytest.mark.parametrize(
    ("name", "tolerance"), [("mkv (ffv1, lossless)", 0.01), ("mp4 (h264)", 0.1), ("mp4 (h265)", 0.1), ("webm (vp9)", 0.1)]
)
def test_eight_generations_keep_their_brightness(tmp_path, name, tolerance):
    """Saved and read again eight times a video was ten levels darker."""
    pictures = original = smooth_pictures()
    for generation in range(8):
        path = tmp_path / f"{generation}.{FORMATS[name].container}"
        write_video_file(path, source_of_images(pictures, None, 16.0), FORMATS[name], 5, {})
        with VideoReader(str(path)) as video:
            pictures = video.read(range(len(original)))
    assert abs((pictures - original).mean().item()) * 255 / 8 < tolerance


# Geometry


@pytest.mark.parametrize(
    ("aspect", "rotation", "size"),
    [(None, 0, (48, 64)), (Fraction(2), 0, (48, 128)), (Fraction(1, 2), 0, (96, 64)), (None, 90, (64, 48)), (Fraction(2), -90, (128, 48))],
)
def test_pictures_have_the_shape_in_which_they_are_displayed(tmp_path, aspect, rotation, size):
    """The shape of the pixels was ignored, so that faces came out narrow or wide."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:12] = 255  # what is above in the file
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(str(path)) as video:
        shown = video.read([0, 2])[1].mean(dim=-1)
    assert tuple(shown.shape) == size
    if rotation:  # counter-clockwise: what was above is on the left
        left, right = shown[:, :4].mean(), shown[:, -4:].mean()
        assert (left > right) == (rotation > 0)


# Trims of files that do not start at 0


@pytest.mark.parametrize(("start_s", "length_s", "expected"), [(0.4, 0, range(10, 40)), (0.0, 0.4, range(10)), (0.4, 0.2, range(10, 15))])
def test_a_part_of_a_transport_stream_counts_from_its_start(tmp_path, start_s, length_s, expected):
    """It was counted from 0, where there is nothing, as a transport stream starts at 1.4 s."""
    path = write_video(tmp_path / "video.ts", 25, codec=CODECS[6])
    with VideoReader(str(path), start_s, length_s) as video:
        assert numbers(video.read(range(len(video.times)))) == list(expected)


def test_a_long_transport_stream_is_found_in(tmp_path):
    path = write_video(tmp_path / "video.ts", 25, codec=("ts", "libx264", "yuv420p", {"qp": "4", "g": "8"}))
    with VideoReader(str(path), 1.2, 0.2) as video:
        assert numbers(video.read(range(5))) == list(range(30, 35))


# Far ahead and back


@pytest.mark.parametrize("codec", CODECS, ids=[f"{codec[1]} in {codec[0]}" for codec in CODECS])
def test_pictures_far_apart_are_found_in_any_order(tmp_path, codec):
    """At one picture a second, so that nearly every one is farther away than is decoded on the way."""
    *kind, options = codec
    path = write_video(tmp_path / f"video.{codec[0]}", 1, codec=(*kind, {**options, "g": "8"}))
    wanted = [39, 2, 25, 26, 12, 38, 0]
    with VideoReader(str(path)) as video:
        pictures = torch.cat([video.read([number]) for number in wanted])
    assert numbers(pictures) == wanted


def test_what_lies_before_a_picture_far_ahead_is_not_decoded(tmp_path, monkeypatch):
    codec, options = CODECS[0][:3], {"qp": "4", "g": "8", "bf": "0"}
    with VideoReader(str(write_video(tmp_path / "video.mp4", 1, codec=(*codec, options)))) as video:
        decoded, decode = [], video._decode
        monkeypatch.setattr(video, "_decode", lambda stream: (decoded.append(frame) or frame for frame in decode(stream)))
        assert numbers(video.read([37])) == [37]
        assert len(decoded) <= 8
        assert numbers(video.read([3])) == [3]
        assert len(decoded) <= 16


@pytest.mark.parametrize(("transfer", "hdr"), [(16, "PQ"), (18, "HLG"), (1, ""), (2, "")])
def test_a_video_of_high_dynamic_range_is_said(tmp_path, caplog, transfer, hdr):
    with av.open(str(tmp_path / "phone.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.colorspace = transfer, 9
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24").reformat(format="yuv420p10le")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        file.mux([*stream.encode(frame), *stream.encode(None)])
    with VideoReader(str(tmp_path / "phone.mkv")) as reader:
        assert reader.hdr == hdr
    assert (f"the video is HDR ({hdr})" in caplog.text) == bool(hdr)
