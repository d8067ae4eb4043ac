"""The last frames of clips, of a run folder, and of videos of any frame rate."""

from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import Timeline
from wan_s2v_pack.wan_s2v_model.runs import tail
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError
from wan_s2v_pack.wan_s2v_model.runs.tail import tail_of_clips, tail_of_file, tail_of_images, tail_of_run, tail_pictures


def steady(count, fps):
    """Times and duration of a video with a steady frame rate."""
    return [number / Fraction(fps) for number in range(count)], count / Fraction(fps)


# Which pictures


@pytest.mark.parametrize(
    ("count", "fps", "frames", "expected"),
    [
        (100, 16, 4, [96, 97, 98, 99]),
        (3, 16, 73, [0, 1, 2]),  # fewer than asked for
        (1, 16, 73, [0]),
        (1, 60, 73, [0]),  # shorter than a frame
        (30, 30, 3, [25, 27, 29]),
        (60, 60, 3, [50, 54, 58]),
        (24, 24, 4, [18, 20, 21, 23]),
        (8, 8, 4, [6, 6, 7, 7]),  # slower than 16 fps: twice each
        (10, 30, 73, [1, 3, 5, 7, 9]),  # a third of a second: 5 frames
    ],
)
def test_pictures_of_the_last_frames(count, fps, frames, expected):
    assert tail_pictures(*steady(count, fps), frames) == expected


@pytest.mark.parametrize("fps", [16, 24, 25, Fraction(30000, 1001), 30, 60])
def test_each_frame_is_within_half_a_picture_of_its_time(fps):
    times, duration = steady(round(10 * fps), fps)
    for left, picture in enumerate(reversed(tail_pictures(times, duration, 73))):
        shown = times[picture] + Fraction(1, 2) / Fraction(fps)
        wanted = duration - Fraction(2 * left + 1, 32)
        assert abs(shown - wanted) <= Fraction(1, 2) / Fraction(fps)


def test_variable_frame_rate_goes_by_time():
    times = [Fraction(0), Fraction(1, 16), Fraction(8, 16), Fraction(15, 16)]
    assert tail_pictures(times, Fraction(1), 9) == [1, 2, 2, 2, 2, 2, 2, 2, 3]


def test_images_in_memory():
    images = torch.arange(60.0)[:, None, None, None].expand(-1, 2, 2, 4)
    found = tail_of_images(images, 30, 3)
    assert found.shape == (3, 2, 2, 3)
    assert found[:, 0, 0, 0].tolist() == [55, 57, 59]


# Files


def write_video(path, num_frames, fps):
    """Grey pictures whose level is their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1001))
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode())


def levels(frames):
    return (frames.mean(dim=(1, 2, 3)) * 255).round().int().tolist()


@pytest.mark.parametrize("fps", [16, 24, 25, 29.97, 30, 60])
def test_end_of_a_file_is_taken_by_time(fps, tmp_path):
    write_video(tmp_path / "video.mkv", 250, fps)
    rate = Fraction(fps).limit_denominator(1001)
    found = levels(tail_of_file(str(tmp_path / "video.mkv"), 0.0, 0.0, 20))
    expected = tail_pictures(*steady(250, rate), 20)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= (fps != 16)  # times in the file are rounded to 1 ms


def test_file_shorter_than_asked_for(tmp_path):
    write_video(tmp_path / "video.mkv", 5, 16)
    assert levels(tail_of_file(str(tmp_path / "video.mkv"), 0.0, 0.0, 73)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("start", "length", "expected"), [(0.0, 5.0, [77, 78, 79]), (2.0, 5.0, [109, 110, 111]), (2.0, 0.0, [197, 198, 199])]
)
def test_part_of_a_file_ends_where_it_was_cut(start, length, expected, tmp_path):
    write_video(tmp_path / "video.mkv", 200, 16)
    assert levels(tail_of_file(str(tmp_path / "video.mkv"), start, length, 3)) == expected


def test_only_the_end_of_a_file_is_decoded(tmp_path, monkeypatch):
    write_video(tmp_path / "video.mkv", 250, 16)
    decoded = []

    class Reader(tail.VideoReader):
        def _decode(self, stream):
            for second, frame in super()._decode(stream):
                decoded.append(second)
                yield second, frame

    monkeypatch.setattr(tail, "VideoReader", Reader)
    assert len(tail_of_file(str(tmp_path / "video.mkv"), 0.0, 0.0, 16)) == 16
    assert len(decoded) <= 40


# Runs


def store_clips(folder, lengths, **settings):
    """Frames numbered through the run, as levels."""
    number = 0
    with RunStore.open(folder, {"seed": 1, **settings}) as store:
        for clip, length in enumerate(lengths):
            frames = torch.arange(number, number + length, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 8, 3)
            store.write_clip(clip, latents=torch.zeros(16, 3, 1, 1), motion_latents=None, frames=frames.contiguous())
            number += length


@pytest.mark.parametrize(("count", "first"), [(1, 28), (9, 20), (10, 19), (15, 14), (29, 0), (73, 0)])
def test_newest_frames_of_a_run(count, first, tmp_path):
    store_clips(tmp_path / "song", [9, 12, 8])
    found = tail_of_run(RunStore.reading(tmp_path / "song"), count)
    assert torch.allclose(found[:, 0, 0, 0] * 255, torch.arange(first, 29) + 0.5)


def test_run_of_25_frames_per_second_is_taken_by_time(tmp_path):
    store_clips(tmp_path / "song", [45, 48, 48], frame_rate=25)
    found = tail_of_run(RunStore.reading(tmp_path / "song"), 32)
    numbers = [round(level * 255 - 0.5) for level in found[:, 0, 0, 0].tolist()]
    assert numbers == tail_pictures(*steady(141, 25), 32)


def test_rounding_down_to_8_bits_is_made_up_for_and_white_stays_white(tmp_path):
    frames = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    frames[-1] = 1
    with RunStore.open(tmp_path / "song", {}) as store:
        store.write_clip(0, latents=torch.zeros(16, 2, 8, 8), motion_latents=None, frames=(frames * 255).to(torch.uint8))
    found = tail_of_run(RunStore.reading(tmp_path / "song"), 8)
    assert abs((found[:-1] - frames[:-1]).mean().item()) < 1e-5
    assert (found[-1] == 1).all()


def test_run_is_read_while_another_process_holds_it(tmp_path):
    store_clips(tmp_path / "song", [9])
    with RunStore.open(tmp_path / "song", {"seed": 1}):
        assert len(tail_of_run(RunStore.reading(tmp_path / "song"), 73)) == 9


def test_run_that_is_read_cannot_be_written(tmp_path):
    store_clips(tmp_path / "song", [9])
    with pytest.raises(ValueError, match="is closed"):
        RunStore.reading(tmp_path / "song").drop_from(0)


def test_no_run_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"There is no finished clip in .*song\. Check run_name"):
        tail_of_run(RunStore.reading(tmp_path / "song"), 73)


def test_damaged_clip_is_a_clear_error(tmp_path):
    store_clips(tmp_path / "song", [9, 12])
    (tmp_path / "song" / "clip_00001.safetensors").write_bytes(b"nothing")
    with pytest.raises(RunStoreError, match="cannot read clip 2 of run 'song'"):
        tail_of_run(RunStore.reading(tmp_path / "song"), 5)


# Clips


@pytest.mark.parametrize(("count", "first_clip", "first"), [(1, 2, 28), (8, 2, 21), (9, 1, 20), (20, 1, 9), (21, 0, 8), (73, 0, 0)])
def test_only_the_clips_that_hold_the_frames_are_decoded(count, first_clip, first):
    timeline = Timeline("aligned", 12, 3, 29, 29, free_start=True)
    asked = []

    def exact_frames(encode, decode, first_clip):
        asked.append((encode, decode, first_clip))
        for clip in range(first_clip, 3):
            start = timeline.first_frame(clip)
            yield torch.arange(float(start), start + timeline.clip_frames(clip))[:, None, None, None].expand(-1, 2, 2, 3)

    clips = SimpleNamespace(timeline=timeline, exact_frames=exact_frames)
    found = tail_of_clips(clips, count, "encode", "decode")
    assert asked == [("encode", "decode", first_clip)]
    assert found[:, 0, 0, 0].tolist() == list(range(first, 29))
