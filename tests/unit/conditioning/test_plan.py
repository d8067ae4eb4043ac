"""What sound, picture, history and pose come to as a plan, and what the plan tells each clip."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.features import EncodedAudio, SilenceFeatures
from wan_s2v_pack.wan_s2v_model.audio.speakers import Speaker, Speakers, join, parse_box
from wan_s2v_pack.wan_s2v_model.conditioning.clip import ALL_STEPS, first_history
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Continuity, Plan, VideoShape, plan_video
from wan_s2v_pack.wan_s2v_model.conditioning.pose import PoseGuide, PoseImages
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline

RATE_HZ, SIDE = 16_000, 64
SILENCE = SilenceFeatures(torch.zeros(2, 3), frozenset({5}))
PICTURE = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
NUM_FRAMES = 30


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


# Planning


def audio():
    samples = NUM_FRAMES * RATE_HZ // 16
    return EncodedAudio(torch.rand(2, 3, NUM_FRAMES), torch.rand(1, samples), RATE_HZ, samples, SILENCE)


def encode(pixels):
    """Each latent is the mean of all."""
    return pixels.mean().expand(1, 16, (pixels.shape[0] + 3) // 4, SIDE // 8, SIDE // 8)


def plan(history=None, pose=None, sync_mode="aligned", max_clips=0, **options):
    shape = VideoShape(SIDE, SIDE, frames_per_clip=16, max_clips=max_clips, sync_mode=sync_mode)
    return plan_video(audio(), shape, PICTURE, history, pose, encode=encode, **options)


def test_plan_has_what_it_was_given():
    made = plan(real_audio_history=True)
    assert (made.height, made.width, made.sample_rate_hz, made.silence) == (SIDE, SIDE, RATE_HZ, SILENCE)
    assert (made.timeline.num_frames, made.timeline.num_clips, made.timeline.frames_per_clip) == (NUM_FRAMES, 3, 16)
    assert torch.equal(made.ref_latents, encode(PICTURE[None]))
    assert made.pose_latents is None
    assert made.pose_steps == ALL_STEPS
    assert made.real_audio_history
    assert made.timeline.free_start


def test_plan_stops_after_the_clips_that_are_allowed():
    assert plan(max_clips=1).timeline.num_clips == 1


def test_video_with_a_history_does_not_start_freely():
    history = first_history(SIDE, SIDE)
    made = plan(history)
    assert made.history is history
    assert not made.timeline.free_start
    assert made.timeline.num_clips == 2


def test_every_clip_has_its_pose(caplog):
    pose = PoseGuide(PoseImages(torch.ones(NUM_FRAMES // 2, SIDE, SIDE, 3), 16.0), 0.5, (0.0, 0.3), "hold")
    made = plan(pose=pose)
    assert [latents.mean().item() for latents in made.pose_latents] == [0.5] * 3
    assert made.pose_steps == (0.0, 0.3)
    assert "the pose lasts 0.94 s and the video 1.88 s: its last picture stays" in caplog.text


@pytest.mark.parametrize(("sync_mode", "covers"), [("aligned", True), ("official", False)])
def test_only_the_reference_leaves_black_borders(sync_mode, covers):
    assert VideoShape(SIDE, SIDE, 16, 0, sync_mode).covers is covers


def test_several_speakers_have_sounds_and_regions_of_their_own():
    """Drawn on a picture of twice the size."""
    sound = audio()
    there = (Speaker(1, parse_box("0 0 64 128"), sound), Speaker(2, parse_box("50% 0 50% 100%")))
    joined = join(Speakers(there, torch.full((2, 3), -1.0)))
    shape = VideoShape(SIDE, SIDE, 16, 0, "aligned", picture=(128, 128))
    made = plan_video(joined, shape, PICTURE, None, None, encode=encode, real_audio_history=True)
    alone = plan_video(sound, shape, PICTURE, None, None, encode=encode, real_audio_history=True)
    assert made.timeline == alone.timeline
    told, plain = made.conditioning(1, None), alone.conditioning(1, None)
    assert torch.equal(told.audio_embedding[:, 0, ..., :16], plain.audio_embedding[..., :16])
    assert told.audio_embedding.shape == (1, 3, 2, 3, 16 + 73)
    assert told.audio_embedding[:, 1:].eq(-1).all()
    assert told.hearing[:, :, 0].tolist() == [[[1.0, 1.0, 0.0, 0.0]] * 4, [[0.0, 0.0, 1.0, 1.0]] * 4, [[0.0] * 4] * 4]
    assert plain.hearing is None


def test_sound_of_another_encoder_is_refused():
    plan().require_audio(2, 3)
    with pytest.raises(ValueError, match="The sound of the plan has 2 layers of 3 values, and this MODEL needs 25 of 3"):
        plan().require_audio(25, 3)


def live_plan():
    return plan_video(replace(audio(), fps=25), VideoShape(SIDE, SIDE, 16, 0, "aligned"), PICTURE, None, None, encode=encode)


def test_a_sound_of_25_frames_per_second_gets_clips_of_48():
    timeline = live_plan().timeline
    assert (timeline.fps, timeline.frames_per_clip, timeline.num_frames) == (25, 48, round(NUM_FRAMES * 25 / 16))


def test_plan_of_another_frame_rate_is_refused():
    live_plan().require_rate(25, "Sample Video Live")
    with pytest.raises(ValueError, match="Sample Video makes 16 frames per second, and this plan has 25"):
        live_plan().require_rate(16, "Sample Video")
