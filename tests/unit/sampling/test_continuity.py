"""Anchors against drift, on exact numbers and in the clip loop, with models that drift."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Continuity, Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.runs.clips import Clips
from wan_s2v_pack.wan_s2v_model.runs.finish import finish_run
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
from wan_s2v_pack.wan_s2v_model.sampling.clip_loop import clip_noise, clip_seed, find_anchor, first_state, run_clips
from wan_s2v_pack.wan_s2v_model.sampling.continuity import GAIN_LIMIT, Statistics, border_statistics, correction_weights, match_statistics

NUM_CLIPS, SIZE = 30, 16  # px: 2 latents
ANCHORS = ("latent statistics", "colour transfer")


def values(*levels):
    """[T, 1, 2, 1]: a frame of two pixels around each level, 1 above and 1 below."""
    return torch.tensor([[level - 1.0, level + 1.0] for level in levels])[:, None, :, None]


# The parts


@pytest.mark.parametrize(
    ("count", "window", "expected"),
    [
        (8, 8, [1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1, 1]),
        (20, 8, [1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1, 1]),  # the oldest 12 are not touched
        (4, 8, [0.25, 0.5, 0.75, 1]),
        (1, 8, [1]),
    ],
)
def test_weights_rise_evenly_to_the_border(count, window, expected):
    assert correction_weights(count, window) == pytest.approx(expected)


def test_weights_of_a_clip_of_the_model():
    weights = correction_weights(77, 73)
    assert len(weights) == 73
    assert weights[-18:] == [1.0] * 18
    assert weights[-19] < 1
    assert max(b - a for a, b in pairwise(weights)) == pytest.approx(1 / 56)


def test_border_is_the_newest_quarter_of_the_window():
    statistics = border_statistics(values(*[0] * 10, 5, 7), window=8)
    assert (statistics.mean.item(), statistics.std.item()) == (6, pytest.approx(2**0.5))


def test_whole_strength_gives_the_border_the_statistics_of_the_anchor():
    anchor = Statistics(torch.tensor([10.0]), torch.tensor([1.2]))
    matched = match_statistics(values(*range(12)), anchor, 1.0, window=8)
    found = border_statistics(matched, window=8)
    assert found.mean.item() == pytest.approx(10, abs=1e-5)
    assert found.std.item() == pytest.approx(1.2, abs=1e-3)
    assert torch.equal(matched[:4], values(0, 1, 2, 3))


def test_correction_on_numbers():
    anchor = Statistics(torch.tensor([7.0]), torch.tensor([1.1]))
    matched = match_statistics(values(*[5] * 4), anchor, 1.0, window=4)  # mean 5, spread 1 -> 7 and 1.1, in four steps
    expected = [[4 + w * 1.9, 6 + w * 2.1] for w in (0.25, 0.5, 0.75, 1)]
    assert torch.allclose(matched[:, 0, :, 0], torch.tensor(expected), atol=1e-3)


@pytest.mark.parametrize(("strength", "mean", "spread"), [(0.0, 5, 1.0), (0.5, 6, 1.05), (1.0, 7, 1.1)])
def test_strength_is_the_share_that_is_taken_back(strength, mean, spread):
    anchor = Statistics(torch.tensor([7.0]), torch.tensor([1.1]))
    found = border_statistics(match_statistics(values(*[5] * 8), anchor, strength, window=8), window=8)
    assert found.mean.item() == pytest.approx(mean, abs=1e-5)
    assert found.std.item() == pytest.approx(spread, abs=1e-3)


@pytest.mark.parametrize("spread", [1000.0, 0.0])
def test_contrast_changes_by_a_quarter_at_most(spread):
    anchor = Statistics(torch.tensor([5.0]), torch.tensor([spread]))
    found = border_statistics(match_statistics(values(*[5] * 8), anchor, 1.0, window=8), window=8)
    assert found.std.item() == pytest.approx(GAIN_LIMIT if spread else 1 / GAIN_LIMIT)


def test_flat_frames_only_get_another_level():
    anchor = Statistics(torch.tensor([0.5]), torch.tensor([0.0]))
    matched = match_statistics(torch.full((8, 2, 2, 1), 0.25), anchor, 1.0, window=8)
    assert torch.allclose(matched[-2:], torch.tensor(0.5))


def test_channels_are_corrected_apart():
    frames = torch.stack([values(*[5] * 8)[..., 0], values(*[3] * 8)[..., 0]], dim=-1)
    anchor = Statistics(torch.tensor([6.0, 3.0]), torch.tensor([1.0, 1.0]))
    assert torch.allclose(border_statistics(match_statistics(frames, anchor, 1.0, window=8), window=8).mean, torch.tensor([6.0, 3.0]))


def test_matched_to_itself_a_clip_does_not_change():
    clip = torch.rand(20, 4, 4, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(match_statistics(clip, border_statistics(clip, 19), 1.0, 19), clip)


def test_given_frames_are_not_changed():
    clip = values(*range(8))
    match_statistics(clip, Statistics(torch.tensor([10.0]), torch.tensor([1.0])), 1.0, window=8)
    assert torch.equal(clip, values(*range(8)))


# Seeds


@pytest.mark.parametrize(("policy", "expected"), [("seed + clip", [42, 43, 44]), ("same seed", [42, 42, 42])])
def test_seed_policy(policy, expected):
    plan = replace(make_plan(), continuity=Continuity(seed_policy=policy))
    for clip, seed in enumerate(expected):
        assert clip_seed(42, plan.continuity.seeded_as(clip)) == seed
        noise = torch.randn(1, 16, plan.timeline.num_latent_frames, 2, 2, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(clip_noise(plan, clip, 42), noise)


# In the clip loop


class DriftingStage:
    """A VAE without loss, four frames by three colours in twelve channels, and a model that changes what it continues.

    Args:
        gain, offset: of each clip to the one before. ramp: they grow over the clip, else they jump at its beginning.
    """

    def __init__(self, gain, offset, *, ramp):
        self.gain, self.offset, self.ramp = gain, offset, ramp

    def encode(self, frames):
        pixels = torch.cat([frames[:1].expand(3, -1, -1, -1), frames])[:, ::8, ::8]  # [4F, h, w, 3]
        latents = pixels.unflatten(0, (-1, 4)).permute(1, 4, 0, 2, 3).flatten(0, 1)  # [12, F, h, w]
        return torch.cat([latents, torch.zeros(4, *latents.shape[1:])])[None]

    def decode(self, latents, newest=0):
        frames = latents[0, :12].unflatten(0, (4, 3)).permute(2, 0, 3, 4, 1).flatten(0, 1)[3:][-newest:]  # [4F - 3 or newest, h, w, 3]
        return frames.repeat_interleave(8, 1).repeat_interleave(8, 2).clamp(0, 1)

    def sample(self, clip, conditioning, noise):
        start = conditioning.ref_latents if conditioning.motion_latents is None else conditioning.motion_latents
        newest = start[:, 9:12, -1:].repeat(1, 4, 1, 1, 1)  # the last frame, for each frame of a latent
        frames = torch.arange(1.0, 4 * noise.shape[2] + 1).unflatten(0, (-1, 4)) / (4 * noise.shape[2])  # [F, 4]
        weight = frames.T.repeat_interleave(3, 0)[None, :, :, None, None] if self.ramp and clip else torch.tensor(float(clip > 0))
        drifted = newest * (1 + weight * (self.gain - 1)) + weight * self.offset.repeat(4)[None, :, None, None, None]
        return torch.cat([drifted.expand(1, 12, noise.shape[2], 2, 2), torch.zeros(1, 4, noise.shape[2], 2, 2)], dim=1)


GAIN, OFFSET = 1.01, torch.tensor([0.005, 0.003, -0.006])


def make_plan(num_clips=NUM_CLIPS, frames_per_clip=80):
    num_samples = (num_clips * frames_per_clip - 3) * 1000
    timeline = plan_timeline(num_samples, 16_000, num_samples, frames_per_clip=frames_per_clip)
    picture = 0.2 + 0.4 * torch.rand(SIZE // 8, SIZE // 8, 3, generator=torch.Generator().manual_seed(0))
    ref_latents = torch.cat([picture.permute(2, 0, 1).repeat(4, 1, 1), torch.zeros(4, 2, 2)])[None, :, None]
    return Plan(timeline, SIZE, SIZE, torch.zeros(1, 1, timeline.num_audio_frames), torch.zeros(1, num_samples), 16_000, ref_latents)


def run(stage, continuity, plan=None):
    plan = replace(plan or make_plan(), continuity=continuity)
    functions = {"sample": stage.sample, "encode": stage.encode, "decode": stage.decode}
    return list(run_clips(plan, first_state(plan, stage.encode), 7, **functions))


def colours(frames):
    """Mean and spread of red, green and blue: [6]."""
    spread, mean = torch.std_mean(frames, dim=(0, 1, 2), correction=0)
    return torch.cat([mean, spread])


def jumps(results):
    """Mean change of a pixel over each border."""
    return torch.tensor([(after.frames[0] - before.frames[-1]).abs().mean().item() for before, after in pairwise(results)])


@pytest.mark.parametrize("ramp", [False, True], ids=["drift in jumps", "drift within clips"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_of_the_drift_of_thirty_clips_a_tenth_is_left_and_no_border_jumps_more(anchor, ramp):
    stage = DriftingStage(GAIN, OFFSET, ramp=ramp)
    free, matched = run(stage, Continuity()), run(stage, Continuity(anchor))
    injected = (colours(free[-1].frames) - colours(free[0].frames)).abs()
    left = (colours(matched[-1].frames) - colours(matched[0].frames)).abs()
    assert injected.min() > 0.01
    assert (left / injected).max() < 0.1
    assert (jumps(matched) <= jumps(free) * 1.1 + 1e-3).all()


@pytest.mark.parametrize("anchor", ANCHORS)
def test_half_the_strength_corrects_less(anchor):
    stage = DriftingStage(GAIN, OFFSET, ramp=True)
    left = [
        (colours(results[-1].frames) - colours(results[0].frames)).abs()
        for results in (run(stage, Continuity(anchor, strength)) for strength in (0.0, 0.3, 1.0))
    ]
    assert (left[0] > left[1]).all()
    assert (left[1] > left[2]).all()


@pytest.mark.parametrize("frames_per_clip", [48, 16, 4])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_short_clips_are_corrected_too(anchor, frames_per_clip):
    stage, plan = DriftingStage(GAIN, OFFSET, ramp=False), make_plan(frames_per_clip=frames_per_clip)
    free, matched = run(stage, Continuity(), plan), run(stage, Continuity(anchor), plan)
    first = colours(free[0].frames)
    assert ((colours(matched[-1].frames) - first).abs() < 0.1 * (colours(free[-1].frames) - first).abs()).all()


@pytest.mark.parametrize("continuity", [Continuity(), *(Continuity(anchor, 0.0) for anchor in ANCHORS)])
def test_off_and_no_strength_change_nothing(continuity):
    stage, plan = DriftingStage(GAIN, OFFSET, ramp=True), make_plan(4)
    for result, expected in zip(run(stage, continuity, plan), run(stage, Continuity(), plan), strict=True):
        assert torch.equal(result.latents, expected.latents)
        assert torch.equal(result.frames, expected.frames)
        assert result.state.anchor is None


def test_latents_are_matched_to_the_first_clip_which_stays_as_it_is():
    stage, plan = DriftingStage(GAIN, OFFSET, ramp=True), make_plan(3)
    free, matched = run(stage, Continuity(), plan), run(stage, Continuity("latent statistics"), plan)
    assert torch.equal(matched[0].frames, free[0].frames)
    assert not torch.equal(matched[1].latents, free[1].latents)


def test_colours_are_matched_to_the_picture_and_latents_stay_as_sampled():
    stage = DriftingStage(GAIN, OFFSET, ramp=True)
    plan = replace(make_plan(3), continuity=Continuity("colour transfer"))
    anchor = find_anchor(plan, torch.zeros(1, 16, 20, 2, 2), stage.decode)
    assert torch.allclose(torch.cat([anchor.mean, anchor.std]), colours(stage.decode(plan.ref_latents)))
    free, matched = run(stage, Continuity(), plan), run(stage, Continuity("colour transfer"), plan)
    assert torch.equal(matched[0].latents, free[0].latents)


def test_next_clip_continues_from_the_frames_that_are_shown():
    stage, plan = DriftingStage(GAIN, OFFSET, ramp=True), make_plan(3)
    for anchor in ANCHORS:
        results = run(stage, Continuity(anchor), plan)
        assert torch.equal(results[1].state.history, results[1].frames[-73:])
        assert torch.equal(results[1].state.motion_latents, stage.encode(results[1].frames[-73:]))


# On the disk


class StopError(Exception):
    pass


class StoppingStage(DriftingStage):
    """Stops at the second clip it is asked for."""

    def sample(self, clip, conditioning, noise):
        if self.first is not None and clip != self.first:
            raise StopError
        self.first = clip
        return super().sample(clip, conditioning, noise)

    first = None


def run_on_disk(folder, plan, stage):
    with RunStore.open(folder, {}) as store:
        finish_run(store, plan, 7, sample=stage.sample, encode=stage.encode, decode=stage.decode)
        return Clips(store, plan, delete_with_handle=False)


def run_in_pieces(folder, plan):
    """One clip per start of the run."""
    while True:
        try:
            return run_on_disk(folder, plan, StoppingStage(GAIN, OFFSET, ramp=True))
        except StopError:
            continue


@pytest.mark.parametrize("frames_per_clip", [80, 48])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_run_in_pieces_equals_an_uninterrupted_one_and_decodes_to_the_same_again(anchor, frames_per_clip, tmp_path):
    plan = replace(make_plan(4, frames_per_clip), continuity=Continuity(anchor))
    stage = DriftingStage(GAIN, OFFSET, ramp=True)
    whole, pieces = run_on_disk(tmp_path / "whole", plan, stage), run_in_pieces(tmp_path / "pieces", plan)
    for clip in range(4):
        files = [(clips.folder / f"clip_{clip:05d}.safetensors").read_bytes() for clips in (whole, pieces)]
        assert files[0] == files[1]
    expected = torch.cat([result.frames for result in run(stage, plan.continuity, plan)])
    assert torch.equal(torch.cat(list(pieces.exact_frames(stage.encode, stage.decode))), expected)
    assert torch.equal(torch.cat(list(pieces.frames())), (expected * 255).to(torch.uint8))
