"""The clip loop with stand-ins for the model and the VAE that leave a trace in every latent and frame."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Continuity, Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.sampling.clip_loop import (
    MotionState,
    clip_decoder,
    clip_noise,
    decode_clip,
    first_state,
    run_clip,
    run_clips,
)
from wan_s2v_pack.wan_s2v_model.sampling.continuity import Statistics

SIZE = 16  # pixels, 2 latents
GREY = 0.5


def make_plan(num_frames, *, frames_per_clip=80, history=None, pose=False):
    timeline = plan_timeline(num_frames * 1000, 16_000, num_frames * 1000, frames_per_clip=frames_per_clip, free_start=history is None)
    audio = torch.arange(1.0, timeline.num_audio_frames + 1).expand(2, 3, -1)
    poses = tuple(torch.full((1, 16, timeline.num_latent_frames, 2, 2), float(clip)) for clip in range(timeline.num_clips))
    return Plan(
        timeline=timeline,
        height=SIZE,
        width=SIZE,
        audio_features=audio,
        waveform=torch.zeros(1, num_frames * 1000),
        sample_rate_hz=16_000,
        ref_latents=torch.full((1, 16, 1, 2, 2), -1.0),
        pose_latents=poses if pose else None,
        history=history,
    )


class Stage:
    """Stand-ins with the VAE's frame counts; `log` tells who was called in which order."""

    def __init__(self):
        self.log, self.conditionings, self.noises, self.contexts, self.histories = [], [], [], [], []

    def sample(self, clip, conditioning, noise):
        """Latent k of clip r is 100 (r + 1) + k."""
        self.log.append(f"sample {clip}")
        self.conditionings.append(conditioning)
        self.noises.append(noise)
        values = 100 * (clip + 1) + torch.arange(float(noise.shape[2]))
        return values[None, None, :, None, None].expand(noise.shape).clone()

    def encode(self, frames):
        """The first latent is the first frame, each other one the mean of 4 frames."""
        self.log.append(f"encode {frames.shape[0]}")
        self.histories.append(frames.clone())
        values = frames.mean(dim=(1, 2, 3))
        values = torch.cat([values[:1], values[1:].unflatten(0, (-1, 4)).mean(dim=1)])
        return values[None, None, :, None, None].expand(1, 16, -1, 2, 2).clone()

    def decode(self, latents, newest=0):
        """The first latent gives a frame, each other one 4 frames that are numbered in the tenths; the newest ones, or all."""
        self.log.append(f"decode {latents.shape[2]}")
        self.contexts.append(latents)
        values = latents.mean(dim=(0, 1, 3, 4))
        frames = torch.cat([values[:1], (values[1:, None] + torch.arange(4) / 10).flatten()])
        return frames[-newest:, None, None, None].expand(-1, SIZE, SIZE, 3).clone()

    @property
    def functions(self):
        return {"sample": self.sample, "encode": self.encode, "decode": self.decode}

    def run(self, plan, seed=7, **options):
        return list(run_clips(plan, first_state(plan, self.encode), seed, **self.functions, **options))


def values(tensor):
    """One number per frame [T, H, W, 3] or per latent [1, C, F, h, w]."""
    dims = (1, 2, 3) if tensor.ndim == 4 else (0, 1, 3, 4)
    return [round(value, 3) for value in tensor.mean(dim=dims).tolist()]


def frames_of_latents(clip, count, first=0):
    return [round(100 * (clip + 1) + k + j / 10, 3) for k in range(count) for j in range(4)][first:]


# A free start


def test_order_of_work():
    stage = Stage()
    results = stage.run(make_plan(3 * 80 - 3))
    assert stage.log == ["sample 0", "decode 21", "encode 73", "sample 1", "decode 39", "encode 73", "sample 2", "decode 39"]
    assert [result.clip for result in results] == [0, 1, 2]
    assert [result.latents.shape for result in results] == [(1, 16, 20, 2, 2)] * 3


def test_nothing_is_encoded_before_or_behind_a_single_free_clip():
    stage = Stage()
    stage.run(make_plan(50))
    assert stage.log == ["sample 0", "decode 21"]


def test_first_clip_is_decoded_behind_the_picture_and_later_ones_behind_their_motion():
    stage = Stage()
    results = stage.run(make_plan(2 * 80 - 3))
    assert values(stage.contexts[0]) == [-1, *range(100, 120)]
    assert values(stage.contexts[1])[19:] == list(range(200, 220))
    assert torch.equal(stage.contexts[1][:, :, :19], results[0].state.motion_latents)


def test_first_clip_loses_three_frames_and_later_ones_none():
    results = Stage().run(make_plan(2 * 80 - 3))
    assert values(results[0].frames) == frames_of_latents(0, 20, first=3)
    assert values(results[1].frames) == frames_of_latents(1, 20)


def test_motion_is_the_encoded_history_of_shown_frames():
    stage = Stage()
    results = stage.run(make_plan(3 * 80 - 3))
    assert values(stage.histories[0]) == frames_of_latents(0, 20, first=7)
    assert values(stage.histories[1]) == frames_of_latents(1, 20, first=7)
    assert [c.motion_latents is None for c in stage.conditionings] == [True, False, False]
    assert torch.equal(stage.conditionings[2].motion_latents, Stage().encode(stage.histories[1]))
    assert torch.equal(results[1].state.history, stage.histories[1])


def test_grey_remains_in_the_history_of_short_clips():
    stage = Stage()
    stage.run(make_plan(3 * 48 - 3, frames_per_clip=48))
    assert values(stage.histories[0]) == [GREY] * 28 + frames_of_latents(0, 12, first=3)
    assert values(stage.histories[1]) == frames_of_latents(0, 12, first=23) + frames_of_latents(1, 12)


def test_very_short_clips_fill_the_history_slowly():
    stage = Stage()
    stage.run(make_plan(3 * 12 - 3, frames_per_clip=12))
    assert values(stage.histories[1]) == [GREY] * 52 + frames_of_latents(0, 3, first=3) + frames_of_latents(1, 3)


def test_last_clip_is_cut_to_the_length_of_the_video():
    results = Stage().run(make_plan(100))
    assert [len(result.frames) for result in results] == [77, 23]
    assert values(results[1].frames) == frames_of_latents(1, 20)[:23]


def test_only_clip_is_cut():
    assert values(Stage().run(make_plan(10))[0].frames) == frames_of_latents(0, 20, first=3)[:10]


def test_history_before_the_last_clip_is_whole_although_little_of_it_is_shown():
    stage = Stage()
    stage.run(make_plan(78))
    assert values(stage.histories[0]) == frames_of_latents(0, 20, first=7)


# A shorter context


@pytest.mark.parametrize("warmup", [1, 4, 19, 30])
def test_shorter_context_changes_what_is_decoded_and_not_which_frames_are_kept(warmup):
    plan, stage, whole = make_plan(2 * 80 - 3), Stage(), Stage().run(make_plan(2 * 80 - 3))
    functions = {**stage.functions, "decode": clip_decoder(stage.decode, 20, warmup)}
    results = list(run_clips(plan, first_state(plan, stage.encode), 7, **functions))
    assert [context.shape[2] for context in stage.contexts] == [21, min(warmup, 19) + 20]
    for result, expected in zip(results, whole, strict=True):
        assert torch.equal(result.frames, expected.frames)


# A start from given frames


def numbered_history():
    return torch.arange(73.0)[:, None, None, None].expand(-1, SIZE, SIZE, 3)


def test_start_from_frames_has_motion_and_loses_nothing():
    stage = Stage()
    results = stage.run(make_plan(100, history=numbered_history()))
    assert stage.log == ["encode 73", "sample 0", "decode 39", "encode 73", "sample 1", "decode 39"]
    assert torch.equal(stage.histories[0], numbered_history())
    assert values(stage.conditionings[0].motion_latents) == [0, *(4 * k + 2.5 for k in range(18))]
    assert values(stage.contexts[0]) == [0, *(4 * k + 2.5 for k in range(18)), *range(100, 120)]
    assert values(results[0].frames) == frames_of_latents(0, 20)
    assert len(results[1].frames) == 20


def test_given_frames_stay_in_the_history_of_short_clips():
    stage = Stage()
    stage.run(make_plan(2 * 12, frames_per_clip=12, history=numbered_history()))
    assert values(stage.histories[1]) == [*range(12, 73), *frames_of_latents(0, 3)]


# What the model is told


def test_each_clip_hears_its_own_audio_and_sees_its_own_pose():
    stage, plan = Stage(), make_plan(2 * 80 - 3, pose=True)
    stage.run(plan)
    first, second = stage.conditionings
    assert first.audio_embedding.shape == (1, 2, 3, 80)
    assert first.audio_embedding[0, 0, 0].tolist() == [1, 1, 1, *range(1, 78)]
    assert second.audio_embedding[0, 1, 2].tolist() == list(range(78, 158))
    assert (values(first.pose_latents), values(second.pose_latents)) == ([0] * 20, [1] * 20)
    assert first.ref_latents is second.ref_latents is plan.ref_latents


def test_no_pose_is_told_as_none():
    stage = Stage()
    stage.run(make_plan(10))
    assert stage.conditionings[0].pose_latents is None


# Noise


def test_noise_is_seeded_by_seed_plus_clip():
    stage, plan = Stage(), make_plan(3 * 48 - 3, frames_per_clip=48)
    stage.run(plan, seed=42)
    for clip, noise in enumerate(stage.noises):
        assert torch.equal(noise, torch.randn(1, 16, 12, 2, 2, generator=torch.Generator().manual_seed(42 + clip)))


def test_noise_has_the_size_of_the_video():
    plan = replace(make_plan(10), height=480, width=832)
    assert clip_noise(plan, 0, 0).shape == (1, 16, 20, 60, 104)


def test_largest_seed_works_for_every_clip():
    plan = make_plan(3 * 80 - 3)
    assert torch.equal(clip_noise(plan, 1, 2**64 - 1), clip_noise(plan, 0, 0))
    assert torch.equal(clip_noise(plan, 2, 2**64 - 1), clip_noise(plan, 1, 0))


def test_noise_may_be_given():
    stage, calls = Stage(), []

    def noise(plan, clip, seed):
        calls.append((clip, seed))
        return torch.full((1, 16, 20, 2, 2), float(clip))

    stage.run(make_plan(2 * 80 - 3), seed=5, noise=noise)
    assert calls == [(0, 5), (1, 5)]
    assert [values(given)[0] for given in stage.noises] == [0, 1]


# Stopping and going on


class RealisticStage(Stage):
    """Clips that depend on everything the model is told."""

    def sample(self, clip, conditioning, noise):
        motion = 0 if conditioning.motion_latents is None else conditioning.motion_latents.mean(dim=2, keepdim=True)
        return noise * 0.1 + motion + conditioning.audio_embedding.mean() / 100


@pytest.mark.parametrize("frames_per_clip", [80, 48, 12])
@pytest.mark.parametrize("from_frames", [False, True])
@pytest.mark.parametrize("finished", [1, 2, 3])
def test_continuing_equals_an_uninterrupted_run(frames_per_clip, from_frames, finished):
    plan = make_plan(4 * frames_per_clip - 5, frames_per_clip=frames_per_clip, history=numbered_history() / 73 if from_frames else None)
    whole = RealisticStage().run(plan)
    rest = list(run_clips(plan, whole[finished - 1].state, 7, **RealisticStage().functions))
    assert [result.clip for result in rest] == list(range(finished, 4))
    for result, expected in zip(rest, whole[finished:], strict=True):
        assert torch.equal(result.latents, expected.latents)
        assert torch.equal(result.frames, expected.frames)


def test_earlier_clips_decide_later_ones():
    plan = make_plan(2 * 80 - 3)
    first, second = RealisticStage().run(plan, seed=1), RealisticStage().run(plan, seed=2)
    carried = replace(second[0].state, motion_latents=first[0].state.motion_latents)
    (result,) = run_clips(plan, carried, 1, **RealisticStage().functions)
    assert torch.equal(result.latents, first[1].latents)
    assert not torch.equal(second[1].latents, first[1].latents)


def test_clips_are_made_one_at_a_time():
    stage, plan = Stage(), make_plan(3 * 80 - 3)
    clips = run_clips(plan, first_state(plan, stage.encode), 7, **stage.functions)
    assert stage.log == []
    next(clips)
    assert stage.log == ["sample 0", "decode 21", "encode 73"]


def test_finished_plan_has_nothing_to_do():
    plan = make_plan(10)
    assert list(run_clips(plan, MotionState(1, torch.zeros(73, SIZE, SIZE, 3), None), 7, **Stage().functions)) == []


def test_state_of_a_clip_is_not_changed_by_later_ones():
    stage, plan = Stage(), make_plan(3 * 80 - 3)
    state = first_state(plan, stage.encode)
    first = run_clip(plan, state, clip_noise(plan, 0, 7), **stage.functions)
    copy = first.state.history.clone()
    run_clip(plan, first.state, clip_noise(plan, 1, 7), **stage.functions)
    assert torch.equal(first.state.history, copy)
    assert values(state.history) == [GREY] * 73


# What is kept of the decoded frames


def test_frames_hold_no_memory_of_what_was_left_out():
    """The first clip is decoded behind the picture, later ones behind 73 frames of their history."""
    for result in Stage().run(make_plan(2 * 80 - 3)):
        assert result.frames.untyped_storage().nbytes() == result.frames.numel() * 4


def test_frames_of_which_nothing_is_left_out_are_not_copied():
    plan, decoded = make_plan(2 * 80 - 3), torch.zeros(80, SIZE, SIZE, 3)
    latents, motion_latents = torch.zeros(1, 16, 20, 2, 2), torch.zeros(1, 16, 19, 2, 2)
    assert decode_clip(plan, 1, latents, motion_latents, lambda _: decoded).data_ptr() == decoded.data_ptr()


@pytest.mark.parametrize(("mean", "reached"), [(3.0, 1.0), (-3.0, 0.0)])
def test_matched_colours_are_colours(mean, reached):
    plan = replace(make_plan(2 * 80 - 3), continuity=Continuity("colour transfer"))
    anchor = Statistics(torch.full((3,), mean), torch.zeros(3))
    grey = torch.full((80, SIZE, SIZE, 3), GREY)
    latents, motion_latents = torch.zeros(1, 16, 20, 2, 2), torch.zeros(1, 16, 19, 2, 2)
    frames = decode_clip(plan, 1, latents, motion_latents, lambda _: grey, anchor)
    assert (frames[0].unique().item(), frames[-1].unique().item()) == (GREY, reached)
