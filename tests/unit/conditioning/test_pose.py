"""Which pose picture is where, at every rate and behind its end, and the latents made of them."""

import errno
import io
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.picture import fit_frames
from wan_s2v_pack.wan_s2v_model.conditioning.pose import (
    AT_ONCE,
    PoseGuide,
    PoseImages,
    keep_in_file,
    pose_latents,
    pose_slots,
    warn_if_short,
)
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import Timeline
from wan_s2v_pack.wan_s2v_model.origin import origin_of

RATES = [16.0, 24.0, 25.0, 29.97, 30000 / 1001, 30.0, 60.0]
SIZE = 16  # px


def timeline_of(sync_mode, num_clips, frames_per_clip=80, free_start=True):
    num_frames = num_clips * frames_per_clip - (3 if free_start else 0)
    return Timeline(sync_mode, frames_per_clip, num_clips, num_frames, num_frames, free_start)


def images(count, fps=16.0):
    """Pictures whose brightness is their number / 1000."""
    return PoseImages((torch.arange(count) / 1000)[:, None, None, None].expand(-1, SIZE, SIZE, 3), fps)


class Times:
    """A pose video of which only the times matter."""

    def __init__(self, times, duration_s, fps):
        self.times, self.duration_s, self.fps = times, duration_s, fps


def slots_of(timeline, pose, end="hold"):
    return [slot for clip in range(timeline.num_clips) for slot in pose_slots(timeline, clip, pose, end)]


def shown(timeline, pose, end="hold"):
    """Picture of each frame of the video."""
    return slots_of(timeline, pose, end)[timeline.dropped_frames :][: timeline.num_frames]


class Encoder:
    """Takes the place of the VAE: each latent is the mean of its frames, the first one of a single frame."""

    def __init__(self):
        self.calls = []

    def __call__(self, pixels):
        self.calls.append(pixels)
        assert pixels.shape[1:] == (SIZE, SIZE, 3)
        values = pixels.mean(dim=(1, 2, 3))
        latents = torch.cat([values[:1], values[1:].unflatten(0, (-1, 4)).mean(dim=1)])
        return latents[None, None, :, None, None].expand(1, 16, -1, SIZE // 8, SIZE // 8)


def latents_of(timeline, pose, end="hold", strength=1.0):
    """Latents of each clip by their first value, and the encoder that made them."""
    encoder = Encoder()
    clips = list(pose_latents(timeline, PoseGuide(pose, strength, end=end), SIZE, SIZE, encoder))
    assert {tuple(clip.shape) for clip in clips} == {(1, 16, timeline.num_latent_frames, SIZE // 8, SIZE // 8)}
    return [clip[0, 0, :, 0, 0] for clip in clips], encoder


# By time


@pytest.mark.parametrize("free_start", [True, False])
@pytest.mark.parametrize("fps", RATES)
def test_every_second_of_a_minute_is_within_half_a_frame(fps, free_start):
    timeline = timeline_of("aligned", 12, free_start=free_start)
    pictures = shown(timeline, images(3700, fps))
    for second in range(60):
        assert abs(pictures[second * 16] / fps - second) <= 0.5 / 16


@pytest.mark.parametrize("free_start", [True, False])
@pytest.mark.parametrize("fps", [*RATES, 8.0, 23.976])
def test_the_picture_on_screen_in_the_middle_of_each_frame(fps, free_start):
    timeline = timeline_of("aligned", 12, free_start=free_start)
    for frame, picture in enumerate(shown(timeline, images(10_000, fps))):
        middle_s, shown_s = (frame + 0.5) / 16, picture / fps
        assert shown_s - 1e-3 <= middle_s < shown_s + 1 / fps + 1e-3


@pytest.mark.parametrize(("frame", "fps", "picture"), [(0, 16, 0), (15, 16, 15), (0, 60, 1), (16, 24, 24), (960, 29.97, 1799)])
def test_picture_of_a_frame(frame, fps, picture):
    assert shown(timeline_of("aligned", 13), images(4000, fps))[frame] == picture


def test_pose_at_16_fps_is_frame_by_frame():
    timeline = timeline_of("aligned", 2)
    assert pose_slots(timeline, 0, images(160)) == [0, 0, 0, *range(77)]
    assert pose_slots(timeline, 1, images(160)) == list(range(77, 157))


def test_variable_frame_rate_goes_by_the_times():
    tenths = [0, 1, 2, 3, 13, 14]  # a second without a new picture
    pose = Times([Fraction(tenth, 10) for tenth in tenths], Fraction(15, 10), Fraction(4))
    pictures = shown(timeline_of("aligned", 2, frames_per_clip=16), pose)
    for frame, picture in enumerate(pictures):
        middle = (2 * frame + 1) / 32 * 10
        assert picture == max(index for index, tenth in enumerate(tenths) if tenth <= middle)


# Behind the end

TEN = {"hold": [9] * 19, "loop": [*range(10), *range(9)], "release": [None] * 19}


@pytest.mark.parametrize("end", TEN)
def test_end_of_the_pose(end):
    assert shown(timeline_of("aligned", 2, frames_per_clip=16), images(10), end) == [*range(10), *TEN[end]]


def test_loop_keeps_time_at_any_rate():
    pictures = shown(timeline_of("aligned", 12), images(75, 25.0), "loop")  # 3 s
    assert pictures[:48] == pictures[48:96] == pictures[-45 - 48 : -45]
    assert pictures[47] == 74


@pytest.mark.parametrize("end", TEN)
@pytest.mark.parametrize(
    ("fps", "num_pictures", "wanted", "step", "got"),
    [
        (30.0, 300, 160, 2, 150),
        (25.0, 250, 160, 2, 125),
        (24.0, 500, 80, 2, 80),  # plays 1.33 times too fast
        (16.0, 100, 160, 1, 100),
        (60.0, 600, 160, 4, 150),
        (15.0, 90, 80, 1, 80),
        (29.97, 1000, 240, 2, 240),
        (23.976, 200, 80, 1, 80),
        (48.0, 300, 80, 3, 80),
        (8.0, 50, 80, 1, 50),
    ],
)
def test_official_takes_every_nth_picture_and_runs_out(fps, num_pictures, wanted, step, got, end):
    pictures = slots_of(timeline_of("official", wanted // 80), images(num_pictures, fps), end)
    assert pictures == [step * slot for slot in range(got)] + [None] * (wanted - got)


@pytest.mark.parametrize(
    ("num_pictures", "end", "says"),
    [
        (29, "hold", ""),
        (28, "hold", "the pose lasts 1.75 s and the video 1.81 s: its last picture stays"),
        (10, "loop", "it starts again (at_end: loop)"),
        (10, "release", "the model moves freely from there"),
    ],
)
def test_a_short_pose_is_said(num_pictures, end, says, caplog):
    warn_if_short(timeline_of("aligned", 2, frames_per_clip=16), images(num_pictures), end)
    assert (says in caplog.text) if says else not caplog.text


def test_nothing_is_said_where_the_reference_shows_black(caplog):
    warn_if_short(timeline_of("official", 2), images(1), "hold")
    assert not caplog.text


# Latents


def test_each_clip_is_encoded_behind_a_copy_of_its_first_picture():
    timeline = timeline_of("aligned", 2, frames_per_clip=8, free_start=False)
    clips, encoder = latents_of(timeline, images(16))
    assert [call[:, 0, 0, 0].mul(1000).round().tolist() for call in encoder.calls] == [[0, *range(8)], [8, *range(8, 16)]]
    torch.testing.assert_close(torch.cat(clips), torch.tensor([1.5, 5.5, 9.5, 13.5]) / 1000)


def test_official_shows_black_behind_the_end():
    clips, encoder = latents_of(timeline_of("official", 3, frames_per_clip=8), images(10))
    assert [call[:, 0, 0, 0].mul(1000).round().tolist() for call in encoder.calls] == [[0, *range(8)], [8, 8, 9, *[0] * 6], [0] * 9]
    torch.testing.assert_close(torch.cat(clips), torch.tensor([1.5, 5.5, 17 / 4, 0, 0, 0]) / 1000)


@pytest.mark.parametrize(
    ("num_pictures", "expected", "encoded_frames"),
    [
        (16, [1.5, 5.5, 9.5, 13.5, 0, 0], [9, 9]),
        (13, [1.5, 5.5, 9.5, 12, 0, 0], [9, 9]),  # one picture of the latent is there: it stays for the rest
        (12, [1.5, 5.5, 9.5, 0, 0, 0], [9, 5]),
        (8, [1.5, 5.5, 0, 0, 0, 0], [9]),
    ],
)
def test_released_latents_are_exactly_zero(num_pictures, expected, encoded_frames):
    timeline = timeline_of("aligned", 3, frames_per_clip=8, free_start=False)
    clips, encoder = latents_of(timeline, images(num_pictures), "release")
    torch.testing.assert_close(torch.cat(clips), torch.tensor(expected) / 1000)
    assert [len(call) for call in encoder.calls] == encoded_frames


def test_a_picture_that_stays_is_encoded_once():
    clips, encoder = latents_of(timeline_of("aligned", 6, frames_per_clip=8, free_start=False), images(8))
    assert len(encoder.calls) == 2
    assert [clip.tolist() for clip in clips[1:]] == [clips[1].tolist()] * 5


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_strength(strength):
    timeline = timeline_of("aligned", 2, frames_per_clip=8)
    plain, _ = latents_of(timeline, images(16))
    scaled, _ = latents_of(timeline, images(16), strength=strength)
    assert torch.equal(torch.cat(scaled), torch.cat(plain) * strength)


@pytest.mark.parametrize("cover", [True, False])
def test_pictures_are_fitted_a_few_at_a_time_to_the_same_bits(cover):
    pictures = torch.rand(2 * AT_ONCE + 3, 40, 23, 3, generator=torch.Generator().manual_seed(0))
    timeline = Timeline("aligned" if cover else "official", 2 * AT_ONCE + 4, 1, 20, 20, free_start=False)
    encoder = Encoder()
    list(pose_latents(timeline, PoseGuide(PoseImages(pictures, 16.0)), SIZE, SIZE, encoder))
    assert torch.equal(encoder.calls[0][1:-1], fit_frames(pictures, SIZE, SIZE, cover=cover))


def test_latents_of_a_whole_video_stand_in_a_file(tmp_path):
    """They stayed in memory, 5.7 GB for an hour at 832x480. A pose that is held is kept once."""
    clips = [torch.rand(1, 16, 2, 4, 4) for _ in range(3)]
    folder = tmp_path / "temp"
    kept = keep_in_file(iter([clips[0], clips[1], clips[1], clips[2]]), folder)
    assert all(torch.equal(a, b) for a, b in zip(kept, [clips[0], clips[1], clips[1], clips[2]], strict=True))
    assert kept[1].data_ptr() == kept[2].data_ptr()
    assert kept[3].data_ptr() - kept[0].data_ptr() == 2 * kept[0].nbytes
    assert list(folder.iterdir()) == [], "no name leads to it"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_of_the_latents_is_that_of_a_file():
    """What is mapped from a file can be dropped when memory is scarce."""
    kept = keep_in_file(iter([torch.rand(1, 16, 8, 64, 64) for _ in range(20)]), None)
    assert len(kept) == 20
    address = kept[0].data_ptr()
    ranges = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    (mapped,) = [entry for entry in ranges if int(entry[0].split("-")[0], 16) <= address < int(entry[0].split("-")[1], 16)]
    assert "deleted" in mapped[-1]


def test_a_full_disk_is_said(monkeypatch, tmp_path):
    class FullDisk(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: FullDisk())
    with pytest.raises(OSError, match=r"pose of this video cannot be kept in .*No space left on device.*Free some GB there"):
        keep_in_file(iter([torch.rand(1, 16, 2, 4, 4)]), tmp_path)


@pytest.mark.parametrize("rate", [16.0, 25.0, 29.97])
def test_pose_of_a_video_at_25_frames_per_second_goes_by_time(rate):
    timeline = replace(timeline_of("aligned", 3, frames_per_clip=48), fps=25)
    pose = images(int(6 * rate), rate)
    for frame, picture in enumerate(shown(timeline, pose)):
        assert picture == int(Fraction(2 * frame + 1, 50) * pose.fps)


def test_official_pose_at_25_frames_per_second_takes_every_nth_picture():
    timeline = replace(timeline_of("official", 1, frames_per_clip=48), fps=25)
    assert slots_of(timeline, images(200, 50.0))[:4] == [0, 2, 4, 6]
    assert slots_of(timeline, images(200, 30.0))[:4] == [0, 1, 2, 3]


def test_the_pose_of_a_clip_is_named_by_its_pictures_and_not_by_the_bits_of_its_latents():
    def origins(pictures, strength=1.0, scale=1.0):
        guide = PoseGuide(pictures, strength)
        latents = pose_latents(timeline_of("aligned", 2, 16), guide, SIZE, SIZE, lambda pixels: scale * torch.rand(1, 16, 5, 2, 2))
        return [origin_of(kept) for kept in keep_in_file(latents, None)]

    assert origins(images(32)) == origins(images(32), scale=1.001)
    first, second = origins(images(32))
    assert first != second
    others = PoseImages(images(32).read(range(32)) * torch.where(torch.arange(32) < 20, 1.0, 0.5)[:, None, None, None], 16.0)
    assert [origin == before for origin, before in zip(origins(others), (first, second), strict=True)] == [True, False]
    assert origins(images(32), strength=0.5) != [first, second]
