"""A live video on several devices: the bits of one, the work that is done at once, and what an error leaves behind."""

import copy
import threading
from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.live_stand_in import Decoder, Network, Stored, encode, make_pipeline, make_plan, make_sampler
from wan_s2v_pack.wan_s2v_model.sampling.live import (
    Anchor,
    BlockNoise,
    Heard,
    LiveState,
    Told,
    first_latent_anchor,
    live_blocks,
    live_sigmas,
)
from wan_s2v_pack.wan_s2v_model.sampling.live_clips import LiveJob, live_clips
from wan_s2v_pack.wan_s2v_model.sampling.pipeline import LiveTeam, deal_steps, describe_steps
from wan_s2v_pack.wan_s2v_model.transformer.causal import CausalVideo, Engine
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt, StoppedError
from wan_s2v_pack.wan_s2v_model.transformer.rings import Placement

CPU = torch.device("cpu")
WAIT_S = 60.0  # until a test that waits for what does not come fails


def clips(job, sampler, results=(), **options):
    return list(live_clips(job, sampler, Stored(results), encode=encode, open_decoder=Decoder, **options))


def same(ours, theirs):
    return all(
        torch.equal(a, b) for a, b in ((ours.latents, theirs.latents), (ours.frames, theirs.frames), (ours.step_inputs, theirs.step_inputs))
    )


# Who does what


@pytest.mark.parametrize(
    ("steps", "gpus", "dealt", "words"),
    [
        (4, 1, [[0, 1, 2, 3]], ""),
        (4, 2, [[0, 1], [2, 3]], "2 GPUs: steps 1-2, decoding | steps 3-4"),
        (4, 3, [[0], [1], [2, 3]], "3 GPUs: step 1, decoding | step 2 | steps 3-4"),
        (4, 4, [[0], [1], [2], [3]], "4 GPUs: step 1, decoding | step 2 | step 3 | step 4"),
        (4, 5, [[], [0], [1], [2], [3]], "5 GPUs: decoding | step 1 | step 2 | step 3 | step 4"),
        (4, 8, [[], [0], [1], [2], [3]], "5 GPUs: decoding | step 1 | step 2 | step 3 | step 4, 3 left out"),
        (3, 2, [[0], [1, 2]], "2 GPUs: step 1, decoding | steps 2-3"),
        (3, 4, [[], [0], [1], [2]], "4 GPUs: decoding | step 1 | step 2 | step 3"),
    ],
)
def test_steps_are_dealt_in_order_and_the_fewest_to_the_one_that_decodes(steps, gpus, dealt, words):
    found = deal_steps(steps, gpus)
    assert [list(part) for part in found] == dealt
    assert describe_steps(found, gpus) == words


# The same bits


@pytest.mark.parametrize(("gpus", "steps"), [(1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (2, 3), (3, 3)])
@pytest.mark.parametrize("restart", [0, 2])
def test_clips_are_those_of_one_device(gpus, steps, restart):
    job = LiveJob(make_plan(48 * 5 - 20, pose=True), 7, steps=steps, restart_clips=restart)
    alone = clips(job, make_sampler(job))
    with make_pipeline(job, gpus) as sampler:
        assert all(map(same, clips(job, sampler), alone))


def test_a_run_goes_on_with_another_number_of_devices():
    job = LiveJob(make_plan(48 * 6 - 3), 7, restart_clips=2)
    alone = clips(job, make_sampler(job))
    for finished, gpus in ((1, 2), (3, 3), (4, 5), (5, 4)):
        with make_pipeline(job, gpus) as sampler:
            rest = clips(job, sampler, alone[:finished])
        assert [result.clip for result in rest] == list(range(finished, 6))
        assert all(map(same, rest, alone[finished:]))


@pytest.mark.parametrize(
    ("placement", "several"), [(Placement(), (2, 3, 5)), (Placement(on_host=True), (3,)), (Placement(float8=True), (2,))], ids=str
)
def test_the_transformer_on_each_device_gives_what_one_gives(tiny_transformer, noise, placement, several):
    """With the sink, the rings, and an anchor that is replaced; weights of its own on each."""
    size, count, config = (4, 6), 8, tiny_transformer.config
    anchor = Anchor(noise(1, 16, 1, *size, seed=1), noise(1, 16, 19, *size, seed=2))
    sounds = [noise(25, config.audio_dim, 12, seed=50 + block) for block in range(count)]
    told = Told(noise(1, 5, config.text_dim, seed=3), lambda block: Heard(sounds[block]), lambda block, step: 4 + block + step)

    def blocks(gpus):
        dealt, crew = deal_steps(4, gpus), Crew([CPU] * len(deal_steps(4, gpus)), Halt())
        networks = [
            CausalVideo(copy.deepcopy(tiny_transformer), size, Engine(), steps=steps, placement=placement) for steps in dealt if steps
        ]
        sampler = LiveTeam(dealt, networks, crew).sampler(told, live_sigmas(4), lambda *_: None)
        options = {"next_anchor": first_latent_anchor, "blocks_between_restarts": 6}
        found = [block.latents for block, _ in live_blocks(sampler, LiveState(0, anchor), count, BlockNoise(*size, seed=5), **options)]
        crew.close()
        return torch.stack(found)

    with torch.inference_mode():
        alone = blocks(1)
        for gpus in several:
            assert torch.equal(blocks(gpus), alone)


def test_steps_are_reported_by_the_thread_that_samples_block_by_block():
    seen, job = [], LiveJob(make_plan(60), 7)
    with make_pipeline(job, 3, on_step=lambda block, step, x: seen.append((block, step, threading.current_thread()))) as sampler:
        results = clips(job, sampler)
    assert [entry[:2] for entry in seen] == [(block, step) for block in range(6) for step in range(4)]
    assert {entry[2] for entry in seen} == {threading.current_thread()}
    assert len(results) == 2


# At once


def test_others_work_while_a_block_is_decoded():
    """Each of both waits for the other: one behind the other they would wait for ever."""
    job, working, decoding = LiveJob(make_plan(60), 7), threading.Event(), threading.Event()

    class Waiting(Network):
        def forward(self, x, step, timestep, first_latent, *told):
            if (first_latent, step) == (3, 3):
                working.set()
                assert decoding.wait(WAIT_S)
            return super().forward(x, step, timestep, first_latent, *told)

    def decode(clip, frames):
        if not decoding.is_set():
            assert working.wait(WAIT_S)
            decoding.set()

    with make_pipeline(job, 2, Waiting) as sampler:
        assert all(map(same, clips(job, sampler, on_frames=decode), clips(job, make_sampler(job))))


def test_steps_of_neighbouring_blocks_are_made_at_once():
    job, together = LiveJob(make_plan(60), 7), threading.Barrier(4)

    class Waiting(Network):
        def forward(self, x, step, timestep, first_latent, *told):
            if first_latent == 3 * (3 - step):  # block 3 at step 0, block 0 at step 3
                together.wait(WAIT_S)
            return super().forward(x, step, timestep, first_latent, *told)

    with make_pipeline(job, 4, Waiting) as sampler:
        assert len(clips(job, sampler)) == 2


# Trouble


@pytest.mark.parametrize("gpus", [2, 3, 5])
@pytest.mark.parametrize("step", range(4))
def test_an_error_of_one_is_that_of_the_run_and_no_thread_stays(gpus, step):
    before, job = threading.active_count(), LiveJob(make_plan(200), 7)

    class Broken(Network):
        def forward(self, x, at_step, timestep, first_latent, *told):
            if (first_latent, at_step) == (15, step):
                raise torch.OutOfMemoryError("of one of them")
            return super().forward(x, at_step, timestep, first_latent, *told)

    done = []
    with pytest.raises(torch.OutOfMemoryError, match="of one of them"), make_pipeline(job, gpus, Broken) as sampler:
        clips(job, sampler, on_frames=lambda clip, frames: done.append(clip))
    assert threading.active_count() == before
    assert len(done) <= 5
    with make_pipeline(job, gpus) as sampler:
        assert all(map(same, clips(job, sampler), clips(job, make_sampler(job))))


def test_an_error_of_one_stops_the_others_between_two_layers():
    """They look whether to stop as often as ComfyUI's interrupt is looked at."""
    job, halt, failed = LiveJob(make_plan(60), 7), Halt(), threading.Event()

    class Checked(Network):
        def forward(self, x, step, timestep, first_latent, *told):
            if (first_latent, step) == (3, 0):
                failed.set()
                raise KeyboardInterrupt
            if (first_latent, step) == (0, 2):
                assert failed.wait(WAIT_S)
                while True:  # many layers
                    halt.check()
            return super().forward(x, step, timestep, first_latent, *told)

    with pytest.raises(KeyboardInterrupt), make_pipeline(job, 2, Checked, halt=halt) as sampler:
        clips(job, sampler)


def test_an_error_where_blocks_are_decoded_ends_what_the_others_do():
    before, job, halt = threading.active_count(), LiveJob(make_plan(200), 7), Halt()

    class Endless(Network):
        def forward(self, x, step, timestep, first_latent, *told):
            while (first_latent, step) == (9, 3):
                halt.check()
            return super().forward(x, step, timestep, first_latent, *told)

    def decode(clip, frames):
        done.append(clip)
        if len(done) == 3:
            raise ValueError("of the decoder")

    done = []
    with pytest.raises(ValueError, match="of the decoder"), make_pipeline(job, 2, Endless, halt=halt) as sampler:
        clips(job, sampler, on_frames=decode)
    assert threading.active_count() == before


def test_left_alone_in_the_middle_it_stops():
    before, job = threading.active_count(), LiveJob(make_plan(200), 7)
    with make_pipeline(job, 3) as sampler:
        blocks = sampler.sample(range(9), job.noise())
        sampler.begin(LiveState(0, job.first_anchor(encode)))
        next(blocks)
        blocks.close()
        with pytest.raises(StoppedError):
            sampler._crew.halt.check()
    assert threading.active_count() == before


def test_what_is_made_again_is_the_same_whatever_was_on_its_way():
    """Out of memory the whole pipeline is made anew, and goes on behind the last stored clip."""
    job = LiveJob(make_plan(48 * 4), 7, restart_clips=2)
    alone = clips(job, make_sampler(job))
    with make_pipeline(replace(job, steps=4), 4) as sampler:
        made = live_clips(job, sampler, Stored(), encode=encode, open_decoder=Decoder)
        first = next(made)
    with make_pipeline(job, 2) as sampler:
        assert all(map(same, [first, *clips(job, sampler, [first])], alone))
