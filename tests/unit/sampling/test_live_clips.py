"""Clips of a live video, and where a run that was cut off goes on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.live_stand_in import Decoder, Network, Stored, encode, make_plan, make_sampler
from wan_s2v_pack.wan_s2v_model.sampling.live import FIRST_LATENT, PICTURE
from wan_s2v_pack.wan_s2v_model.sampling.live_clips import DECODER_BLOCKS, LiveJob, live_clips, live_frames, require_live


def job_of(num_frames, **options):
    return LiveJob(make_plan(num_frames), 7, **options)


def run(job, results=(), network=None, **options):
    return list(live_clips(job, make_sampler(job, network), Stored(results), encode=encode, open_decoder=Decoder, **options))


def same(ours, theirs):
    return all(
        torch.equal(a, b) for a, b in ((ours.latents, theirs.latents), (ours.frames, theirs.frames), (ours.step_inputs, theirs.step_inputs))
    )


@pytest.mark.parametrize("num_frames", [1, 9, 45, 46, 93, 100, 137])
def test_clips_have_the_frames_of_the_timeline(num_frames):
    job = job_of(num_frames)
    results = run(job)
    assert [len(result.frames) for result in results] == [job.plan.timeline.clip_frames(clip) for clip in range(len(results))]
    assert sum(len(result.frames) for result in results) == num_frames
    assert len(results) == job.plan.timeline.num_clips


def test_blocks_that_nobody_sees_are_not_made():
    network = Network()
    results = run(job_of(50), network=network)  # 45 and 5 frames
    assert [result.latents.shape[2] for result in results] == [12, 3]
    assert network.num_calls == 4 * 5
    assert results[1].step_inputs.shape == (1, 3, 16, 3, 4, 6)


def test_frames_come_block_by_block():
    shown = []
    run(job_of(60), on_frames=lambda clip, frames: shown.append((clip, len(frames))))
    assert shown == [(0, 9), (0, 12), (0, 12), (0, 12), (1, 12), (1, 3)]


@pytest.mark.parametrize(("anchor", "steps"), [(FIRST_LATENT, 4), (PICTURE, 4), (FIRST_LATENT, 3)])
@pytest.mark.parametrize("restart", [0, 1, 2, 3])
def test_cut_off_anywhere_it_goes_on_with_the_same_bytes(anchor, steps, restart):
    job = job_of(48 * 8 - 20, anchor=anchor, steps=steps, restart_clips=restart)
    whole = run(job)
    assert len(whole) == 8
    for count in range(1, 8):
        rest = run(job, whole[:count])
        assert [result.clip for result in rest] == list(range(count, 8))
        assert all(map(same, rest, whole[count:]))


def test_restarts_change_what_follows_and_nothing_before():
    plain, restarting = (run(job_of(48 * 6, restart_clips=restart)) for restart in (0, 3))
    assert all(map(same, plain[:3], restarting[:3]))
    assert not same(plain[3], restarting[3])


def test_a_run_that_goes_on_plays_back_no_more_than_it_has_to():
    job = job_of(48 * 8, restart_clips=3)
    whole, network = run(job), Network()
    run(job, whole[:7], network)
    recalled, since, last = 8, 4, [*job.blocks_of(7), *job.blocks_of(8)]
    assert network.num_calls == 4 * (recalled + since + len(last))


@pytest.mark.parametrize("restart", [0, 1, 3])
def test_blocks_that_are_still_to_be_made_and_played_back_are_known_before(restart):
    """What is said to be ahead is what then happens, also in a run that goes on."""
    job = job_of(48 * 8 - 20, restart_clips=restart)
    whole = run(job)
    for finished in range(8):
        network = Network()
        run(job, whole[:finished], network)
        made, played_back = job.blocks_ahead(finished)
        assert made == job.num_blocks - 4 * finished
        assert network.num_calls == job.steps * (made + played_back)
    assert LiveJob(job.plan, 7, restart_clips=3).blocks_ahead() == (31, 16)


def test_exact_frames_from_any_clip_on():
    job = job_of(48 * 7)
    results = run(job)
    assert job.plan.timeline.num_clips * 4 > DECODER_BLOCKS
    for first in range(len(results)):
        frames = list(live_frames(job, Stored(results), first, encode, Decoder))
        assert all(torch.equal(ours, result.frames) for ours, result in zip(frames, results[first:], strict=True))


def test_sound_and_pose_of_each_block():
    job = LiveJob(make_plan(100, pose=True), 7)
    told = job.told(torch.zeros(1, 1, 4))
    first, sixth = told.of_block(0), told.of_block(5)
    assert torch.equal(first.sound[..., 3:], job.plan.audio_features[..., :9])  # aligned: three frames later
    assert torch.equal(sixth.sound, job.plan.audio_features[..., 57:69])
    assert torch.equal(sixth.pose, job.plan.pose_latents[1][:, :, 3:6])
    assert LiveJob(make_plan(100), 7).told(torch.zeros(1, 1, 4)).of_block(0).pose is None
    assert first.regions is None


def test_several_speakers_are_told_with_their_regions():
    sounds, weights = torch.randn(1, 3, 2, 3, 48), torch.rand(3, 12, 2, 3)
    several = {
        "speakers": SimpleNamespace(heard=lambda frames: sounds[..., : len(frames)]),
        "regions": SimpleNamespace(of_clip=lambda timeline, clip: weights + clip),
    }
    told = LiveJob(replace(make_plan(100), **several), 7).told(torch.zeros(1, 1, 4)).of_block(6)
    assert torch.equal(told.sound, sounds[0, ..., 24:36])
    assert torch.equal(told.regions.weights, weights[:, 6:9] + 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"history": torch.zeros(73, 32, 48, 3)}, "previous_frames"),
        ({"pose_steps": (0.2, 1.0)}, "start_percent and end_percent of Pose"),
        ({"real_audio_history": True}, "audio_history 'real'"),
        ({"picture": None}, "prepare it again"),
        ({"dub": object(), "timeline": replace(make_plan(60).timeline, fps=16)}, "cannot use dub: a live video is made from a picture"),
    ],
)
def test_what_means_nothing_here_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        require_live(replace(make_plan(60), **change))


def test_plans_of_another_shape_are_refused():
    plan = make_plan(60)
    require_live(plan)
    with pytest.raises(ValueError, match="clips of 80 frames: they have 48"):
        require_live(replace(plan, timeline=replace(plan.timeline, frames_per_clip=80)))
    with pytest.raises(ValueError, match="makes 25 frames per second, and this plan has 16"):
        require_live(replace(plan, timeline=replace(plan.timeline, fps=16)))
