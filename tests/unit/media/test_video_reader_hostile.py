"""Media files of strangers: unknown codecs, titles in Latin-1, playlists that lead to other files, pipes."""

import os
from fractions import Fraction

import av
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.sound_reader import open_sound
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_reader import VideoReader, count_frames, open_media
from wan_s2v_pack.wan_s2v_model.media.video_source import frame_pictures
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import _opened

MKV = next(form for form in FORMATS.values() if form.container == "mkv")
MP4 = next(form for form in FORMATS.values() if form.container == "mp4")


def video(path, form=MKV, title=""):
    frames = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
    sound = (torch.rand(1, 8000) - 0.5, 16_000)
    options = {"video_format": form, "quality": 20, "audio": sound, "metadata": {"title": title} if title else {}}
    with VideoWriter(path, width=64, height=64, fps=Fraction(16), **options) as writer:
        writer.write(frames)
    return path


def patched(path, old, new):
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def test_an_unknown_codec_is_said_in_words(tmp_path):
    path = patched(video(tmp_path / "x.mkv"), b"FFV1", b"XXX1")
    with pytest.raises(ValueError, match=r"codec is unknown\. Convert it to MP4"):
        VideoReader(str(path))


def test_a_title_in_latin_1_takes_nothing_away(tmp_path):
    path = patched(video(tmp_path / "x.mkv", title="Cafe au lait"), b"Cafe au", b"Caf\xe9 au")
    with VideoReader(str(path)) as reader:
        assert reader.read([0]).shape == (1, 64, 64, 3)
    assert open_sound(str(path)) is not None
    assert count_frames(path) == 8
    _opened(path).close()


def test_pixels_of_any_shape(tmp_path):
    """Before, memory was taken for pictures as wide as the file says."""
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 2048, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(10)
        for packet in [*stream.encode(av.VideoFrame(2048, 64, "yuv420p")), *stream.encode(None)]:
            target.mux(packet)
    with VideoReader(str(path)) as reader, pytest.raises(ValueError, match=r"with \d+ x 64 pixels\. Convert it"):
        reader.read_levels([0])


def test_a_picture_that_stays_for_years():
    """Before, a number was made for each of its frames."""
    with pytest.raises(ValueError, match="would have 16,000,000,000 frames"):
        frame_pictures([Fraction(0), Fraction(10**9 - 1)], Fraction(0), Fraction(10**9), Fraction(16))


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_leads_nowhere(tmp_path, name):
    video(tmp_path / "secret.mp4", MP4)
    with av.open(str(tmp_path / "secret.mp4")) as source, av.open(str(tmp_path / "secret.ts"), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (tmp_path / name).write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:0.5,\nsecret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match=r"not read here, such as a playlist|cannot be read"):
        VideoReader(str(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_makes_nobody_wait(tmp_path):
    os.mkfifo(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match="no plain file"):
        open_media(str(tmp_path / "x.mp4"))


@pytest.mark.parametrize("data", [b"", b"\0" * 1000, b"RIFF" + b"\xff" * 100, b"\x1aE\xdf\xa3" + b"\xff" * 500, b"ftyp" * 100])
def test_what_is_no_video(tmp_path, data):
    (tmp_path / "x.mp4").write_bytes(data)
    with pytest.raises(ValueError, match=r"The (video|file)"):
        VideoReader(str(tmp_path / "x.mp4"))
