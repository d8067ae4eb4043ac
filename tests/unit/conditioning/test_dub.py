"""Which picture of a dubbed video is where, what of it is kept, and that it comes back as it was."""

import re
from bisect import bisect_right
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.dub import (
    AROUND,
    CONTEXT_FRAMES,
    DUB_ENDS,
    WHOLE,
    FittedDub,
    SourceImages,
    checked_dub,
    soft_mask,
)
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.media.video_reader import VideoReader

FPS = 16  # of the model
RATES = {"23.976": Fraction(24000, 1001), "25": Fraction(25), "30": Fraction(30), "60": Fraction(60), "variable": None}
HEIGHT, WIDTH = 48, 64
OPTIONS = {"strength": 1.0, "feather_px": 0}


def timeline_of(num_frames, frames_per_clip=16):
    return plan_timeline(num_frames * 1000, 16_000, num_frames * 1000, frames_per_clip=frames_per_clip)


def numbered(count):
    """Noisy pictures in whose corner their number is, in levels [count, H, W, 3]."""
    pictures = torch.randint(0, 256, (1, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = pictures.expand(count, -1, -1, -1).clone()
    for number, picture in enumerate(pictures):
        picture[:8, :8] = torch.tensor([number // 256, number % 256, 0], dtype=torch.uint8)
    return pictures


def numbers_in(pictures):
    return [int(picture[4, 4, 0]) * 256 + int(picture[4, 4, 1]) for picture in pictures]


def source(count=20, fps=10):
    return SourceImages(numbered(count).float() / 255, fps)


def mask_of(rows=slice(24, 40), columns=slice(16, 48)):
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, rows, columns] = 1
    return mask


def dub_of(video=None, mask=None, part=WHOLE, **options):
    return checked_dub(video or source(), mask_of() if mask is None else mask, part, **{**OPTIONS, **options})


def fitted(dub, num_frames=20, height=HEIGHT, width=WIDTH):
    return FittedDub(dub, timeline_of(num_frames), height, width)


def clips_of(timeline, level=7, size=(HEIGHT, WIDTH)):
    """Finished frames of each clip, all of one level."""
    return [torch.full((timeline.clip_frames(clip), *size, 3), level, dtype=torch.uint8) for clip in range(timeline.num_clips)]


class Encoder:
    """Takes the place of the VAE: a latent is the mean of its 4 frames in its 8 x 8 pixels."""

    def __init__(self):
        self.pixels = []

    def __call__(self, pixels):
        self.pixels.append(pixels)
        assert len(pixels) % 4 == 1
        frames = torch.nn.functional.avg_pool2d(pixels.mean(dim=-1), 8)
        means = torch.cat([frames[:1], frames[1:].unflatten(0, (-1, 4)).mean(dim=1)])
        return means[None, None].expand(1, 16, -1, -1, -1)


def write_video(path, times, pictures, rate=None):
    """A lossless file whose pictures appear at these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate or 30, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        stream.codec_context.time_base = Fraction(1, 90_000)
        for time, picture in zip(times, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts, frame.time_base = round(time * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def times_of(rate, seconds):
    if RATES[rate] is not None:
        return [number / RATES[rate] for number in range(int(seconds * RATES[rate]))]
    steps = np.random.default_rng(0).choice([1, 2, 3, 5], size=seconds * 40) / 60
    return [Fraction(time).limit_denominator(60) for time in np.cumsum(steps) - steps[0] if time < seconds]


# By time


@pytest.mark.parametrize("seconds", [8, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rate", RATES)
def test_model_and_result_show_the_source_of_every_second(rate, seconds, tmp_path):
    """What the model is given, what the clips hold, and what is written, in a file whose picture is its number."""
    times = times_of(rate, seconds)
    path = write_video(tmp_path / "source.mkv", times, numbered(len(times)), RATES[rate])
    dub = fitted(dub_of(VideoReader(path)), seconds * FPS)
    timeline = timeline_of(seconds * FPS)
    given = [number for clip in range(timeline.num_clips) for number in composited(dub, timeline, clip)]
    assert len(given) == seconds * FPS
    written = [number for part in dub.finished(clips_of(timeline)) for number in numbers_in(part)]
    for numbers, fps in ((given, Fraction(FPS)), (written, dub.fps)):
        assert len(numbers) == round(seconds * fps)
        middles = [Fraction(2 * number + 1, 2) / fps for number in range(len(numbers))]
        shown = [max(0, bisect_right(dub.dub.video.times, middle) - 1) for middle in middles]
        late = [abs(dub.dub.video.times[number] - dub.dub.video.times[right]) for number, right in zip(numbers, shown, strict=True)]
        assert max(late) == 0
    if RATES[rate] is not None:
        assert (dub.fps, written[: len(times)]) == (RATES[rate], list(range(len(times))))


def composited(dub, timeline, clip):
    frames = torch.zeros(timeline.frames_per_clip - (timeline.dropped_frames if clip == 0 else 0), HEIGHT, WIDTH, 3)
    return numbers_in((dub.composite(clip, frames) * 255).round())[: timeline.clip_frames(clip)]


@pytest.mark.parametrize("rate", RATES)
def test_a_new_mouth_is_within_half_a_frame_of_its_sound(rate):
    """Each picture of the result shows the frame of the model that is on screen in its middle."""
    times = times_of(rate, 8)
    video = SourceImages(numbered(len(times)).float() / 255, 25)
    video.times, video.fps = times, RATES[rate] or Fraction(30)
    timeline = timeline_of(8 * FPS)
    frames = torch.arange(8 * FPS, dtype=torch.uint8)[:, None, None, None].expand(-1, HEIGHT, WIDTH, 3)
    dub = fitted(dub_of(video), 8 * FPS)
    starts = [timeline.first_frame(clip) for clip in range(timeline.num_clips)] + [8 * FPS]
    result = torch.cat(list(dub.finished(frames[start:end] for start, end in pairwise(starts))))
    shown = [int(picture[32, 32, 0]) for picture in result]
    for number, frame in enumerate(shown):
        middle = Fraction(2 * number + 1, 2) / dub.fps
        assert Fraction(frame, FPS) <= middle <= Fraction(frame + 1, FPS) or frame == 8 * FPS - 1


@pytest.mark.parametrize("end", DUB_ENDS)
def test_a_longer_sound_holds_the_last_picture_or_goes_back_and_forth(end):
    dub = dub_of(source(10, 10), end=end, loop_s=0.3)
    shown = [dub.picture_at(Fraction(2 * frame + 1, 20)) for frame in range(20)]
    behind = {"hold": [9] * 10, "loop": [9, 8, 7, 7, 8, 9, 9, 8, 7, 7]}[end]
    assert shown == [*range(10), *behind]


def test_a_longer_sound_is_told_and_a_shorter_one_ends_the_video():
    long, short = fitted(dub_of(source(10, 10)), 32), fitted(dub_of(source(10, 10)), 8)
    assert long.length_note() == "the sound lasts 2.00 s and source_video 1.00 s: its last picture stays (at_end: hold)"
    assert "its last 2 s go back and forth" in fitted(dub_of(source(10, 10), end="loop"), 32).length_note()
    assert short.length_note() is None
    assert sum(map(len, short.finished(clips_of(timeline_of(8))))) == 5


def test_a_file_is_read_clip_by_clip_with_the_pictures_of_one_in_memory(tmp_path):
    path = write_video(tmp_path / "source.mkv", times_of("30", 30), numbered(900))
    reader, timeline = VideoReader(path), timeline_of(30 * FPS)
    dub, most, encode = FittedDub(dub_of(reader), timeline, HEIGHT, WIDTH), 0, Encoder()
    for clip in range(timeline.num_clips):
        dub.kept(clip, encode)
        most = max(most, len(dub._pictures))
        composited(dub, timeline, clip)
    assert most <= CONTEXT_FRAMES + timeline.frames_per_clip
    assert len(dub._pictures) <= CONTEXT_FRAMES
    assert reader._container is None  # nobody holds the file


# What is kept


def test_the_sampler_is_given_the_latents_of_the_source_behind_their_context():
    video, encode = source(40, FPS), Encoder()
    dub = fitted(dub_of(video), 40)
    kept = dub.kept(1, encode)
    frames = [max(0, frame) for frame in range(13 - CONTEXT_FRAMES, 13 + 16)]
    assert numbers_in((encode.pixels[0] * 255).round()) == frames
    assert torch.equal(kept.latents, encode(video.read(frames))[:, :, 5:])
    assert kept.latents.shape == (1, 16, 4, HEIGHT // 8, WIDTH // 8)
    first = dub.kept(0, encode)
    assert numbers_in((encode.pixels[-1] * 255).round()) == [0] * (CONTEXT_FRAMES + 3) + list(range(13))
    assert first.latents.shape == kept.latents.shape


def test_a_latent_may_change_where_any_of_its_pixels_may():
    kept = fitted(dub_of(mask=mask_of(slice(7, 9), slice(16, 17)))).kept(0, Encoder())
    expected = torch.zeros(HEIGHT // 8, WIDTH // 8, dtype=torch.bool)
    expected[0:2, 2] = True
    assert kept.may_change.shape == (1, 1, 4, HEIGHT // 8, WIDTH // 8)
    assert torch.equal(kept.may_change[0, 0], expected.expand(4, -1, -1))


def test_one_mask_for_each_picture_moves_with_them():
    masks = torch.zeros(20, HEIGHT, WIDTH)
    for number, mask in enumerate(masks):
        mask[16:24, 8 * (number // 5) : 8 * (number // 5) + 8] = 1
    dub = fitted(dub_of(source(20, FPS), masks), 20)
    kept = dub.kept(0, Encoder())  # slots -3 to 12
    columns = [torch.nonzero(latent.any(dim=0)).flatten().tolist() for latent in kept.may_change[0, 0]]
    assert columns == [[0], [0], [1], [1, 2]]
    frames = dub.composite(0, torch.zeros(13, HEIGHT, WIDTH, 3))
    black = [torch.nonzero((frame.sum(dim=-1) == 0).all(dim=0)[None].any(dim=0)) for frame in frames[:, 16:24]]
    assert [int(columns.min()) for columns in black] == [0] * 5 + [8] * 5 + [16] * 3


def test_frames_are_the_source_s_own_outside_of_the_mask_and_new_inside():
    dub = fitted(dub_of(source(20, FPS), feather_px=3))
    frames = dub.composite(0, torch.full((13, HEIGHT, WIDTH, 3), 2.0))
    inside = mask_of()[0] > 0
    assert torch.equal((frames * 255).round()[:, ~inside], numbered(13).float()[:, ~inside])
    assert (frames[:, 28:36, 20:44] == 2).all()
    edge = frames[0, 24, 20:44]
    assert ((edge > 0) & (edge < 2)).all()


@pytest.mark.parametrize("kind", ["file", "images"])
@pytest.mark.parametrize("part", [WHOLE, AROUND])
def test_result_has_the_source_s_bits_outside_of_the_mask(kind, part, tmp_path):
    pictures = numbered(20)
    video = source(20, 25)
    if kind == "file":
        video = VideoReader(write_video(tmp_path / "source.mkv", [Fraction(number, 25) for number in range(20)], pictures, 25))
    mask = mask_of(slice(24, 32), slice(30, 40))
    timeline = timeline_of(13)
    dub = FittedDub(dub_of(video, mask, part, feather_px=2), timeline, 64, 64)
    result = torch.cat(list(dub.finished(clips_of(timeline, 200, (64, 64)))))
    inside = mask[0] > 0
    assert torch.equal(result[:, ~inside], pictures[:, ~inside])
    assert (result[:, 26:30, 32:38] == 200).all()
    assert (result[:, inside] != pictures[:, inside]).any(dim=-1).all()


def test_the_way_back_ends_where_it_began():
    """A picture that is fitted to the video and pasted into its source is at the same place there."""
    ramp = torch.stack(torch.meshgrid(torch.linspace(0.2, 0.8, HEIGHT), torch.linspace(0.2, 0.8, WIDTH), indexing="ij"), dim=-1)
    picture = torch.cat([ramp, ramp[..., :1]], dim=-1)[None]
    mask = torch.ones(1, HEIGHT, WIDTH)
    for size in ((48, 64), (64, 64), (64, 128), (32, 32)):
        dub = FittedDub(dub_of(SourceImages(picture.expand(4, -1, -1, -1), 4), mask), timeline_of(13), *size)
        fitted_frames = (dub._fitted([0]).expand(13, -1, -1, -1),)
        result = next(iter(dub.finished(fitted_frames)))
        rows, columns = dub._reached
        apart = (result[0].float() - picture[0] * 255)[rows, columns]
        assert apart.abs().max() < 4, size
        assert apart.abs().mean() < 1, size


def test_soft_mask_is_zero_outside_and_rises_inside():
    mask = torch.zeros(40, 40)
    mask[10:40, 10:30] = 1
    soft = soft_mask(mask, 4)
    assert torch.equal(soft > 0, mask > 0)
    assert torch.allclose(soft[10:16, 20], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]))
    assert (soft[20:40, 20] == 1).all()  # at the edge of the picture nothing is kept behind it
    assert torch.equal(soft_mask(mask, 0), mask)
    assert torch.equal(soft_mask(mask * 0.5, 4), soft * 0.5)


def test_the_part_around_a_mask_is_three_times_as_large_and_within_the_picture():
    assert dub_of(mask=mask_of(slice(20, 28), slice(30, 40)), part=AROUND).part == (slice(9, 39), slice(20, 50))
    assert dub_of(mask=mask_of(slice(0, 4), slice(60, 64)), part=AROUND).part == (slice(0, 12), slice(52, 64))
    assert dub_of(part=AROUND).part == (slice(0, HEIGHT), slice(0, WIDTH))
    assert dub_of(mask=mask_of(slice(20, 28), slice(30, 40)), part=AROUND).reference(0.55).shape == (1, 30, 30, 3)


def test_the_reference_is_the_picture_of_its_second():
    assert numbers_in((dub_of().reference(0.55) * 255).round()) == [5]


# What does not fit


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(1, HEIGHT, WIDTH), "source_mask is empty"),
        (torch.zeros(1, 64, 64), "source_mask is empty"),
        (torch.ones(1, 64, 64), "source_mask is 64x64, and the pictures of source_video are 64x48"),
        (torch.ones(3, HEIGHT, WIDTH), "source_mask has 3 masks, and source_video 20 pictures"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        dub_of(mask=mask)


def test_without_a_mask_the_strength_has_to_keep_something():
    with pytest.raises(ValueError, match="Nothing of the source would be kept"):
        checked_dub(source(), None, WHOLE, **OPTIONS)
    assert (checked_dub(source(), None, WHOLE, strength=0.5).mask == 1).all()


def test_a_mask_that_is_cropped_away_is_refused():
    with pytest.raises(ValueError, match="source_mask lies outside of what is seen in a video of 16x48"):
        dub_of(mask=mask_of(columns=slice(0, 8))).require_video(16, "aligned", HEIGHT, 16)


def test_what_is_opaque_in_a_picture_with_a_mask_is_kept():
    """ComfyUI's Load Image gives 1 / 257 for it in WebP, GIF and grey pictures: then all of the video would change a little."""
    faint = torch.full((1, HEIGHT, WIDTH), 1 / 257)
    with pytest.raises(ValueError, match="source_mask is empty"):
        dub_of(mask=faint)
    assert torch.equal(dub_of(mask=torch.maximum(mask_of(), faint)).mask, mask_of())


def test_a_source_of_high_dynamic_range_is_said():
    video = source()
    assert fitted(dub_of(video)).notes() == [None, None]
    video.hdr = "HLG"
    assert fitted(dub_of(video)).notes()[1].startswith("the video is HDR (HLG)")


def test_a_live_video_and_mode_official_are_refused():
    dub = dub_of()
    dub.require_video(16, "aligned", HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="Dubbing a video makes 16 frames per second, and this plan has 25"):
        dub.require_video(25, "aligned", HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="A video is dubbed with sync_mode aligned, got official"):
        dub.require_video(16, "official", HEIGHT, WIDTH)


def test_settings_tell_everything_but_video_and_mask():
    dub = dub_of()
    changes = ({"feather_px": 1}, {"end": "loop"}, {"end": "loop", "loop_s": 1.0}, {"part": (slice(0, 8), slice(0, 8))})
    texts = {dub.settings, *(replace(dub, **change).settings for change in changes)}
    assert len(texts) == 5
