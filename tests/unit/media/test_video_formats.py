"""What the formats write is what players can play."""

import os

import av
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS, open_container
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter


def write(path, name, *, height=48, width=64, quality=18, audio=None):
    frames = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    video_format = FORMATS[name]
    with VideoWriter(path, width=width, height=height, fps=16, video_format=video_format, quality=quality, audio=audio) as writer:
        writer.write(frames)
    return path


@pytest.mark.parametrize(("name", "least"), [("mp4 (h264)", 2), ("webm (vp9)", 2), ("mp4 (h265)", 16), ("mkv (ffv1, lossless)", 4)])
def test_the_smallest_size_of_a_codec(tmp_path, name, least):
    """Smaller ones failed with "Invalid argument"."""
    for height, width in ((least, 64), (64, least), (least - 1, 64), (64, least - 1)):
        with av.open(str(write(tmp_path / "a", name, height=height, width=width))) as container:
            assert len(list(container.decode(video=0))) == 3
    if least > 2:
        with pytest.raises(ValueError, match=f"takes no pictures smaller than {least}x{least}, got 64x{least - 2}. Choose another format"):
            write(tmp_path / "b", name, height=least - 2, width=64)
        assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("rate", [64_000, 88_200, 96_000, 192_000])
@pytest.mark.parametrize("name", ["mp4 (h264)", "mp4 (h265)"])
def test_aac_has_no_rate_that_players_refuse(tmp_path, name, rate):
    with av.open(str(write(tmp_path / "a.mp4", name, audio=(torch.zeros(2, rate), rate)))) as container:
        assert container.streams.audio[0].rate == 48_000
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) == pytest.approx(3 / 16, abs=0.002)


@pytest.mark.parametrize("quality", [0, 1, 18, 51])
def test_h264_has_a_profile_that_players_know_at_every_quality(tmp_path, quality):
    """At a quality of 0 it was High 4:4:4 Predictive, which browsers do not play."""
    with av.open(str(write(tmp_path / "a.mp4", "mp4 (h264)", quality=quality))) as container:
        assert container.streams.video[0].codec_context.profile in ("High", "Main")


@pytest.mark.parametrize("name", ["mp4 (h264)", "mp4 (h265)", "webm (vp9)"])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_pictures_are_stored_as_players_expect(tmp_path, name, size):
    height, width = size
    with av.open(str(write(tmp_path / "a", name, height=height, width=width, quality=0))) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.width % 2, codec.height % 2, codec.pix_fmt) == (0, 0, "yuv420p")
        assert name != "mp4 (h265)" or codec.codec_tag == "hvc1"


@pytest.mark.parametrize(("version", "choices"), [("18.1.0", {"metadata_errors"}), ("19.0.2", set()), ("20.0.0rc1", set())])
def test_files_are_opened_by_older_and_newer_pyav(tmp_path, monkeypatch, version, choices):
    """19, which Python 3.12 and newer get, knows no `metadata_errors`: no sound and no video could be read there."""
    path, asked, av_open = write(tmp_path / "a.mp4", "mp4 (h264)"), set(), av.open

    def remember(file, mode=None, format=None, options=None, **others):
        asked.update(others)
        return av_open(file, mode, format, options)

    monkeypatch.setattr(av, "__version__", version)
    monkeypatch.setattr(av, "open", remember)
    with open_container(str(path)) as container:
        assert len(list(container.decode(video=0))) == 3
    assert asked == choices
