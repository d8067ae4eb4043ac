"""What the plan tells each clip."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.features import SilenceFeatures
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Continuity, Plan
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline


def make_plan(num_frames, **settings):
    """Frame i hears i + 1."""
    timeline = plan_timeline(num_frames * 1000, 16_000, num_frames * 1000, frames_per_clip=80)
    heard = torch.arange(1.0, timeline.num_audio_frames + 1).expand(2, 3, -1)
    return Plan(timeline, 16, 16, heard, torch.zeros(1, num_frames * 1000), 16_000, torch.zeros(1, 16, 1, 2, 2), **settings)


def test_picture_motion_and_pose_of_a_clip():
    plan, motion = make_plan(2 * 80 - 3, pose_latents=("first", "second")), torch.zeros(1, 16, 19, 2, 2)
    told = plan.conditioning(1, motion)
    assert (told.ref_latents is plan.ref_latents, told.motion_latents is motion, told.pose_latents) == (True, True, "second")
    assert make_plan(10).conditioning(0, None).pose_latents is None


def test_each_clip_knows_the_steps_of_the_pose():
    plan = make_plan(2 * 80 - 3, pose_steps=(0.2, 0.6))
    assert [plan.conditioning(clip, None).pose_steps for clip in (0, 1)] == [(0.2, 0.6)] * 2


def test_real_audio_history_follows_the_sound_of_a_clip():
    plan = make_plan(100)
    for clip in range(2):
        heard = replace(plan, real_audio_history=True).conditioning(clip, None).audio_embedding
        assert torch.equal(heard[..., :80], plan.conditioning(clip, None).audio_embedding)
        assert heard[0, 0, 0, 80:].tolist() == [[1.0] * 73, list(range(5, 78))][clip]


def test_rest_is_heard_in_pauses_and_past_the_end():
    plan = make_plan(100, silence=SilenceFeatures(torch.full((2, 3), -1.0), frozenset(range(80, 84))))
    heard = plan.conditioning(1, None).audio_embedding[0, 0, 0].tolist()
    assert heard == [78, 79, 80, *[-1] * 4, *range(85, 101), *[-1] * 57]


@pytest.mark.parametrize(("policy", "clips"), [("seed + clip", [0, 1, 2]), ("same seed", [0, 0, 0])])
def test_seed_policy_says_whose_seed_a_clip_takes(policy, clips):
    assert [Continuity(seed_policy=policy).seeded_as(clip) for clip in range(3)] == clips


@pytest.mark.parametrize(("anchor", "strengths"), [("off", (0, 0)), ("latent statistics", (0.5, 0)), ("colour transfer", (0, 0.5))])
def test_strength_is_that_of_the_chosen_anchor(anchor, strengths):
    continuity = Continuity(anchor, 0.5)
    assert (continuity.latent_strength, continuity.colour_strength) == strengths
