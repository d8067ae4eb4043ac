"""IMAGE and AUDIO of other nodes as the source of a video file."""

from fractions import Fraction

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_source import source_of_images
from wan_s2v_pack.wan_s2v_model.media.video_writer import write_video

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
        write_video(tmp_path / "video.mkv", source, FORMATS["mkv (ffv1, lossless)"], 18, {}, look)
    assert not list(tmp_path.iterdir())
