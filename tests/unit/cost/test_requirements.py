"""Whether a job fits, what is advised when it does not, and how the figures are told."""

import re
from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.cost import requirements as resources
from wan_s2v_pack.wan_s2v_model.cost.estimate import Estimate, Job, ModelFacts, Rates, estimate
from wan_s2v_pack.wan_s2v_model.cost.outlook import WAYS
from wan_s2v_pack.wan_s2v_model.cost.requirements import (
    REFUSED_SHARE,
    DeviceFacts,
    _fits,
    describe_job,
    describe_plan,
    describe_shape,
    refusal,
    require_fit,
    require_image_memory,
)
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B

RATES = Rates(linear=4e14, attention=6e14, vae=8e13)
GPU = DeviceFacts("Test GPU", free_bytes=8e9, host_free_bytes=64e9, rates=RATES)
CPU = replace(GPU, name="the CPU", free_bytes=80e9, host_free_bytes=80e9, is_host=True)
BF16 = ModelFacts(S2V_14B, weights_bytes=32.6e9, value_bytes=2, residual_bytes=4)
RESIDENT = replace(BF16, is_resident=True)
LEGACY = replace(BF16, is_file_backed=False)
LOADED_LEGACY = replace(LEGACY, held_bytes=32.6e9)


def plan(num_frames=150):
    return plan_timeline(num_frames * 1000, 16_000, num_frames * 1000)


JOB = Job(plan(), 480, 832, steps=40, model_calls=2)
LEAST = estimate(JOB, BF16, RATES).least_device_bytes
CLIP_HOST = estimate(JOB, BF16, RATES).clip_host_bytes


@pytest.mark.parametrize(
    ("model", "device", "short_of"),
    [
        (BF16, GPU, None),
        (BF16, replace(GPU, free_bytes=0.81 * LEAST), None),  # an estimate errs
        (BF16, replace(GPU, free_bytes=0.79 * LEAST), "GPU memory on Test GPU"),
        (BF16, replace(GPU, host_free_bytes=CLIP_HOST), None),
        (BF16, replace(GPU, host_free_bytes=CLIP_HOST / 2), "main memory"),
        (RESIDENT, GPU, "GPU memory on Test GPU"),
        (RESIDENT, replace(GPU, free_bytes=40e9), None),
        (LEGACY, replace(GPU, host_free_bytes=24e9), "main memory"),
        (LOADED_LEGACY, replace(GPU, host_free_bytes=24e9), None),
        (LEGACY, replace(GPU, free_bytes=40e9, host_free_bytes=4e9), None),  # all of it fits on the GPU
        (replace(RESIDENT, is_file_backed=False), replace(GPU, free_bytes=40e9, host_free_bytes=4e9), None),
        (RESIDENT, CPU, None),
        (RESIDENT, replace(CPU, host_free_bytes=20e9), "main memory"),
        (replace(RESIDENT, held_bytes=32.6e9), replace(CPU, host_free_bytes=8e9), None),
    ],
)
def test_refused_is_only_what_clearly_does_not_fit(model, device, short_of):
    reason = refusal(JOB, model, device)
    assert (reason is None) == (short_of is None)
    assert reason is None or f"GB of {short_of}, but only" in reason


def test_refusal_says_how_much_and_what_helps():
    job = replace(JOB, height=704, width=1024)
    reason = refusal(job, BF16, replace(GPU, free_bytes=0.7 * estimate(job, BF16, RATES).least_device_bytes))
    assert re.fullmatch(
        r"1024x704 with 80 frames per clip needs at least \d\.\d GB of GPU memory on Test GPU, but only \d\.\d GB can be had\. "
        r"What helps, best first: a size of \d+x\d+ or less; \d+ frames per clip or fewer; an fp8 model file; "
        r"precision fast in Load Wan S2V Model; other programs closed\.",
        reason,
    )


def test_too_little_memory_for_the_frames_is_not_blamed_on_the_model():
    reason = refusal(JOB, RESIDENT, replace(GPU, free_bytes=40e9, host_free_bytes=CLIP_HOST / 2))
    assert re.fullmatch(r".*best first: a size of \d+x\d+ or less; other programs closed\.", reason)


@pytest.mark.parametrize(
    ("model", "advised", "not_advised"),
    [
        (RESIDENT, "offload switched on", "a size of"),
        (replace(RESIDENT, weights_bytes=16.4e9), "precision fast", "fp8"),
        (replace(RESIDENT, residual_bytes=2), "fp8", "precision"),
    ],
)
def test_advice_is_what_can_help(model, advised, not_advised):
    reason = refusal(JOB, model, GPU)
    assert advised in reason
    assert not_advised not in reason


def test_on_the_cpu_nothing_is_offloaded():
    assert "offload" not in refusal(JOB, RESIDENT, replace(CPU, host_free_bytes=20e9))


@pytest.mark.parametrize("size", [(480, 832), (832, 480), (704, 1024), (1280, 1280)])
def test_advised_size_and_frames_fit_and_are_no_smaller_than_needed(size):
    job = replace(JOB, height=size[0], width=size[1])
    device = replace(GPU, free_bytes=0.7 * estimate(job, BF16, RATES).least_device_bytes)
    reason = refusal(job, BF16, device)
    width, height = map(int, re.search(r"a size of (\d+)x(\d+)", reason).groups())
    assert _fits(replace(job, height=height, width=width), BF16, device)
    assert not _fits(replace(job, height=height + 128, width=width + 128), BF16, device)
    frames = int(re.search(r"(\d+) frames per clip or fewer", reason)[1])
    assert _fits(with_frames(job, frames), BF16, device)
    assert not _fits(with_frames(job, frames + 4), BF16, device)


def test_no_length_is_advised_where_none_fits():
    job = replace(JOB, height=1280, width=1280)
    shortest = estimate(with_frames(job, 4), BF16, RATES).least_device_bytes
    reason = refusal(job, BF16, replace(GPU, free_bytes=0.99 * shortest))
    assert "a size of" in reason
    assert "frames per clip or fewer" not in reason


def with_frames(job, frames_per_clip):
    return replace(job, timeline=replace(job.timeline, frames_per_clip=frames_per_clip))


def test_nothing_is_refused_that_is_advised():
    assert REFUSED_SHARE < 1


# Texts


@pytest.fixture
def known_cost(monkeypatch):
    """An estimate that does not depend on the calibration."""
    cost = Estimate(
        tokens=35_074,
        least_device_bytes=5.94e9,
        full_device_bytes=31e9,
        host_bytes=34.4e9,
        clip_host_bytes=1.8e9,
        linear_flop=0.9e15,
        attention_flop=1e15,
        seconds=11_400,
    )
    monkeypatch.setattr(resources, "estimate", lambda job, *_: replace(cost, seconds=142.5 * job.steps * job.model_calls))


@pytest.mark.usefixtures("known_cost")
def test_preview_says_what_is_made_what_it_costs_and_what_is_assumed():
    assert describe_plan(JOB, BF16, GPU) == [
        "832 x 480   150 frames   9.38 s   2 clips of 80",
        "sync: aligned   35,074 tokens   1.90 PFLOP per model call",
        "time: about 3 h 10 min at 40 steps, about 10 min at 4 steps, on Test GPU",
        "GPU memory: 5.9 GB at least, 31 GB for full speed, 8.0 GB free",
        "RAM: 34 GB for full speed, 64 GB free",
        "assumed: 14B model in 16 bits; 4 steps: with the LoRA for few steps, without guidance",
    ]


@pytest.mark.usefixtures("known_cost")
def test_preview_says_what_several_gpus_will_do():
    assert "GPUs: 2 GPUs on each model call" in describe_plan(JOB, BF16, GPU, "2 GPUs on each model call")


def test_time_of_both_ways_knows_of_the_gpus():
    shared = replace(JOB, works={1: 0.5, 2: 1.0})
    for way in WAYS:
        one, two = (estimate(way.of(job), BF16, GPU.rates).seconds for job in (JOB, shared))
        assert 0.5 * one < two < 0.7 * one


def test_copies_that_no_file_backs_take_main_memory_each():
    copies = replace(BF16, copies=2, is_file_backed=False)
    one, two = (estimate(JOB, model, GPU.rates).host_bytes for model in (replace(copies, copies=1), copies))
    assert two - one == BF16.weights_bytes
    assert estimate(JOB, replace(BF16, copies=2), GPU.rates).host_bytes == one


@pytest.mark.usefixtures("known_cost")
def test_the_node_says_what_the_video_will_be_and_how_long_it_takes_both_ways():
    """The sampler is not known yet, and a draft takes a twentieth of the time."""
    assert describe_shape(JOB, BF16, GPU).splitlines() == [
        "832x480, 2 clips, 9.38 s",
        "about 3 h 10 min at 40 steps, about 10 min at 4 steps, on Test GPU",
    ]


@pytest.mark.usefixtures("known_cost")
def test_preview_on_a_machine_that_is_too_small():
    lines = describe_plan(JOB, RESIDENT, replace(CPU, host_free_bytes=5e9))
    assert "RAM: 7.7 GB, 5.0 GB free" in lines
    assert "too large: an fp8 model file would help" in lines


@pytest.mark.usefixtures("known_cost")
def test_log_line_counts_what_is_left():
    assert describe_job(replace(JOB, steps=4, model_calls=1, first_clip=1, disk_bytes=0.18e9), RESIDENT, GPU) == (
        "1 clip of 832x480, 35,074 tokens, 4 steps of 1 model call: about 10 min on Test GPU; "
        "GPU memory: 5.9 GB at least, 31 GB for full speed, 8.0 GB free; RAM: 34 GB for full speed, 64 GB free; disk: 0.2 GB"
    )
    assert describe_job(JOB, BF16, GPU).startswith("2 clips of 832x480, 35,074 tokens, 40 steps of 2 model calls:")


@pytest.mark.parametrize(("num_frames", "is_noted"), [(157, False), (158, True), (176, True), (177, False), (3, False)])
def test_preview_notes_a_nearly_empty_last_clip(num_frames, is_noted):
    lines = describe_plan(replace(JOB, timeline=plan(num_frames)), BF16, GPU)
    assert any("saves one clip" in line for line in lines) == is_noted


def test_note_says_how_much_sound_saves_a_clip():
    lines = describe_plan(replace(JOB, timeline=plan(160)), BF16, GPU)
    assert lines[-1] == "the last clip shows only 3 frames: 0.19 s less sound saves one clip"


def test_job_that_fits_is_logged(caplog):
    with caplog.at_level("INFO", "wan_s2v"):
        require_fit(JOB, BF16, GPU)
    assert [record.getMessage() for record in caplog.records] == [f"estimate: {describe_job(JOB, BF16, GPU)}"]


def test_job_that_does_not_fit_is_refused():
    tiny = replace(GPU, free_bytes=1e9)
    with pytest.raises(ValueError, match=r"needs at least .* of GPU memory on Test GPU") as caught:
        require_fit(JOB, BF16, tiny)
    assert str(caught.value).startswith(refusal(JOB, BF16, tiny))


def test_images_that_fit_are_let_through():
    require_image_memory((100, 480, 832, 3), free_bytes=0.48e9 / 0.8, advice="", value_bytes=4)
    require_image_memory((200, 480, 832, 3), free_bytes=0.48e9 / 0.8, advice="", value_bytes=2)


def test_images_that_do_not_fit_are_refused_in_words():
    with pytest.raises(
        MemoryError,
        match=r"^101 frames of 832x480 need 0\.5 GB as IMAGE, but only 0\.6 GB of memory are free\. Cut it\.$",
    ):
        require_image_memory((101, 480, 832, 3), free_bytes=0.48e9 / 0.8, advice="Cut it.")


DIRECTML = replace(GPU, name="DirectML", free_bytes=2**30, is_measured=False)


def test_a_figure_that_nobody_measured_refuses_nothing(caplog):
    require_fit(JOB, BF16, DIRECTML)
    assert "needs at least" in caplog.text
    assert "cannot measure the memory" in caplog.text
    lines = describe_plan(JOB, BF16, DIRECTML)
    assert not any("too large" in line for line in lines)
    assert any("nobody knows how much free" in line for line in lines)


def test_main_memory_is_measured_there_too():
    with pytest.raises(ValueError, match="of main memory"):
        require_fit(JOB, BF16, replace(DIRECTML, host_free_bytes=CLIP_HOST / 2))


def test_a_refusal_says_how_to_try_it_anyway(monkeypatch, caplog):
    small = replace(GPU, free_bytes=LEAST / 2)
    monkeypatch.delenv(resources.TRY_ANYWAY, raising=False)
    with pytest.raises(ValueError, match="WAN_S2V_TRY_ANYWAY=1"):
        require_fit(JOB, BF16, small)
    monkeypatch.setenv(resources.TRY_ANYWAY, "1")
    require_fit(JOB, BF16, small)
    assert "tried all the same" in caplog.text
