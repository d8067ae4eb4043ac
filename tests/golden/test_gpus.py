"""Core's "MultiGPU CFG Split" in front of our sampler: every device works in every call, and the clip is that of one device.

The devices are the CPU under several names.
"""

import os
import threading
from dataclasses import replace

import pytest
import torch
from torch.utils._pytree import tree_leaves
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.report import replay_folder
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler, randn, sample_clip, with_cache
from wan_s2v_pack.tests.golden.test_hooks import LATE, make_sampler
from wan_s2v_pack.tests.golden.tiny_model import OPTIONS, load_native, load_ours, what_remains

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 3e-5, "rtol": 1e-5}  # float32, on latents of up to 9, after five steps
WITHOUT_GUIDANCE = {"cfg": 1.0}


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


@pytest.fixture
def forwards(monkeypatch):
    """The network and the team of each forward."""
    module, seen = pack_module("wan_s2v_model.transformer.model"), []
    forward = module.WanS2VTransformer.forward

    def note(transformer, *args, team=None, **options):
        seen.append((id(transformer.blocks[0].self_attn.q), 1 if team is None else len(team.shares)))
        return forward(transformer, *args, team=team, **options)

    monkeypatch.setattr(module.WanS2VTransformer, "forward", note)
    return seen


@pytest.fixture
def one_by_one(monkeypatch):
    """Sample without two conditionings in one batch."""
    import comfy.samplers

    def sample(sampler):
        with monkeypatch.context() as patch:
            patch.setattr(comfy.samplers, "can_concat_cond", lambda one, other: one is other)
            return sample_clip(sampler)

    return sample


def test_guidance_is_split_to_the_bit(bridge, model, on, forwards, one_by_one):
    alone = one_by_one(clip_sampler(bridge, model))
    forwards.clear()
    assert torch.equal(sample_clip(clip_sampler(bridge, on(model, 2))), alone)
    assert len({network for network, _ in forwards}) == 2, "each device has layers of its own"
    assert {size for _, size in forwards} == {1}


@pytest.mark.parametrize(
    ("count", "settings", "sizes"),
    [
        (2, WITHOUT_GUIDANCE, {2}),
        (3, {}, {3}),
        (4, {}, {2}),
        (5, WITHOUT_GUIDANCE, {5}),
        (2, {"cfg_end": 0.4}, {1, 2}),
        (2, {"audio": (6.0,)}, {2}),
        (3, {"audio": (6.0,)}, {1}),
    ],
)
def test_all_devices_work_in_every_call(bridge, model, on, forwards, count, settings, sizes):
    if "audio" in settings:
        settings = {"audio": pack_module("wan_s2v_model.sampling.guidance").AudioGuidance(*settings["audio"])}
    alone = sample_clip(clip_sampler(bridge, model, **settings))
    forwards.clear()
    shared = sample_clip(clip_sampler(bridge, on(model, count), **settings))
    torch.testing.assert_close(shared, alone, **CLOSE)
    assert len({network for network, _ in forwards}) == count
    assert {size for _, size in forwards} == sizes


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_caches_see_whole_calls(bridge, model, on, name):
    settings = {"steps": 10, **WITHOUT_GUIDANCE}
    alone, shared = (sample_clip(clip_sampler(bridge, with_cache(name, each), **settings)) for each in (model, on(model, 3)))
    torch.testing.assert_close(shared, alone, **CLOSE)


@pytest.mark.parametrize("count", [2, 3])
def test_hooks_whose_strength_changes(bridge, model, on, count):
    alone = sample_clip(make_sampler(bridge, model, LATE))
    torch.testing.assert_close(sample_clip(make_sampler(bridge, on(model, count), LATE)), alone, **CLOSE)


def test_prompts_over_time(bridge, model, on):
    """Each clip has its prompt, on all devices; the constants of the clip before are not taken for it."""
    prompts, timelines = (pack_module(f"wan_s2v_model.conditioning.{name}") for name in ("prompts", "timeline"))
    timeline = timelines.plan_timeline(32_000, 16_000, 32_000, frames_per_clip=8)
    starts = [{prompts.PROMPT_KEY: prompts.ScheduledPrompt("words", start_clip=clip)} for clip in (0, 1)]
    clips = []
    for each in (model, on(model, 2), on(model, 3)):
        sampler = clip_sampler(bridge, each, steps=3)
        texts = [[randn(seed, 9, 64), start] for seed, start in zip((4, 7), starts, strict=True)]
        sampler.conditions = prompts.place_on_clips(texts, timeline), sampler.conditions[1]
        clips.append([sample_clip(sampler, clip) for clip in (0, 1, 2)])
    alone, *shared = clips
    for each in shared:
        torch.testing.assert_close(each, alone, **CLOSE)
    assert (alone[1] - sample_clip(clip_sampler(bridge, model, steps=3), 1)).abs().max() > 0.01


def test_lora_in_front_of_the_split(bridge, model, on, one_by_one):
    patches = {"diffusion_model.blocks.1.self_attn.k.weight": ("diff", (0.05 * randn(1, 256, 256)[0],))}
    results = []
    for count in (1, 2, 3):
        patched = (on(model, count) if count > 1 else model).clone()
        patched.add_patches(patches, 0.8)
        results.append(one_by_one(clip_sampler(bridge, patched, steps=3)))
    torch.testing.assert_close(results[1:], [results[0]] * 2, **CLOSE)
    assert (results[0] - sample_clip(clip_sampler(bridge, model, steps=3))).abs().max() > 0.01


def test_other_nodes_that_look_into_blocks_see_all_tokens(bridge, model, on):
    seen = []

    def look(args, extra):
        seen.append(args["img"].shape[1])
        return extra["original_block"](args)

    results = []
    for each in (model, on(model, 2)):
        patched = each.clone()
        patched.set_model_patch_replace(look, "dit", "double_block", 1)
        results.append(sample_clip(clip_sampler(bridge, patched, **WITHOUT_GUIDANCE)))
    assert torch.equal(*results)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("kind", ["forward", "e2e"])
def test_recorded_results_of_the_reference_with_every_call_shared_by_three(bridge, golden_folder, monkeypatch, capsys, kind):
    crews, network = pack_module("wan_s2v_model.transformer.crew"), pack_module("wan_s2v_model.transformer.model").WanS2VTransformer
    forward, crew, shared = network.forward, crews.Crew([torch.device("cpu")] * 3, crews.Halt()), []

    def share(transformer, x, timestep, conditions, compute=None, **options):
        shared.append(True)

        def work(member):
            own = None if compute is None else replace(compute, transformer_options=dict(compute.transformer_options))
            return forward(transformer, x, timestep, conditions, own, **{**options, "team": member})

        return crew.run(work)

    monkeypatch.setattr(network, "forward", share)
    assert replay_folder(golden_folder, kind)
    crew.close()
    assert shared
    assert "all rows ok" in capsys.readouterr().out


def test_a_clip_brings_its_inputs_to_the_device_once(bridge):
    """What ComfyUI is given in main memory it brings over in every call, and waits for the call before."""
    module = pack_module("wan_s2v_model.comfy_bridge.sampling")
    clip = pack_module("wan_s2v_model.conditioning.clip").ClipConditioning(
        randn(1, 25, 8, 20), randn(1, 16, 1, 8, 8), motion_latents=randn(1, 16, 19, 8, 8), pose_latents=randn(1, 16, 5, 8, 8)
    )
    text = [[randn(1, 7, 24), {}]]
    given = [
        tensor for tensor in tree_leaves(module._conditions(text, text, clip, torch.device("meta"))) if isinstance(tensor, torch.Tensor)
    ]
    assert len(given) == 3 * 5
    assert {tensor.device.type for tensor in given} == {"meta"}


# GPUs that are not alike


@pytest.fixture
def slow(monkeypatch):
    """Let the devices of a MODEL seem so many times slower: a clock of each thread goes on with the tokens of its blocks."""
    module, time = pack_module("wan_s2v_model.comfy_bridge.gpus"), threading.local()
    block = pack_module("wan_s2v_model.transformer.blocks").Block
    forward, factors = block.forward, {}

    def work(self, stream, *args, **options):
        time.now = getattr(time, "now", 0.0) + stream.x.shape[1] * factors.get(id(self.self_attn.q), 1.0)
        return forward(self, stream, *args, **options)

    monkeypatch.setattr(block, "forward", work)
    monkeypatch.setattr(module, "CLOCK", lambda: getattr(time, "now", 0.0))
    monkeypatch.setattr(module, "_known", {})

    def make(model, *slowness):
        for patcher, factor in zip(module.gpus_of(model), slowness, strict=True):
            factors.update({id(block.self_attn.q): factor for block in patcher.model.diffusion_model.blocks})
        return model

    return make


@pytest.mark.parametrize(
    ("slowness", "result"),
    [
        ((1.0, 3.0), ((0.75, 0.25), "2 GPUs on each model call: 75% | 25%")),
        ((1.0, 200.0), ((1.0,), "1 GPU, 1 left out, with which a step would take longer")),
        ((200.0, 1.0), ((1.0,), "1 GPU, 1 left out, with which a step would take longer")),
    ],
)
def test_shares_follow_the_speeds_of_the_first_steps(bridge, model, on, forwards, slow, caplog, slowness, result):
    alone = sample_clip(clip_sampler(bridge, model, **WITHOUT_GUIDANCE))
    sampler = clip_sampler(bridge, slow(on(model, 2), *slowness), **WITHOUT_GUIDANCE)
    with caplog.at_level("INFO"):
        first, later = sample_clip(sampler), sample_clip(sampler)
    for clip in (first, later):
        torch.testing.assert_close(clip, alone, **CLOSE)
    shares, words = result
    assert forwards[-1][1] == len(shares)
    (group,) = sampler._speeds.groups(1, sampler.call)
    assert group.shares == pytest.approx(shares, abs=0.02)
    assert sampler.work_on_gpus == words
    assert words in caplog.text


def test_guidance_is_not_held_up_by_a_slow_device(bridge, model, on, forwards, slow, one_by_one):
    alone = one_by_one(clip_sampler(bridge, model))
    sampler = clip_sampler(bridge, slow(on(model, 2), 1.0, 2.0))
    for clip in (sample_clip(sampler), sample_clip(sampler)):
        torch.testing.assert_close(clip, alone, **CLOSE)
    assert [size for _, size in forwards[-2:]] == [2, 2]


# What is said


def test_time_and_words_know_of_the_gpus(bridge, model, on):
    one, two, four = (clip_sampler(bridge, on(model, count), cfg_end=0.4) for count in (1, 2, 4))
    assert [sampler.work_of_steps for sampler in (one, two, four)] == [[2, 2, 1, 1, 1], [1, 1, 0.5, 0.5, 0.5], [0.5, 0.5] + 3 * [0.25]]
    assert [sampler.work_on_gpus for sampler in (one, two, four)] == ["", "2 GPUs: prompt | negative", "4 GPUs: 2 x 2"]
    assert one.calls_per_step == four.calls_per_step


def test_preview_of_a_plan_knows_of_the_gpus(bridge, on, model):
    on(model, 4)  # devices
    split = {"class_type": "MultiGPU_WorkUnits", "inputs": {"model": ["1", 0], "max_gpus": 3}}
    graph = {"2": split, "11": {"class_type": "WanS2VSampler", "inputs": {"model": ["2", 0], "plan": ["9", 0]}}}
    ahead = bridge.gpus_ahead(graph, "9")
    assert (ahead.number, ahead.words) == (3, "3 GPUs on each model call; with guidance 3 GPUs on each model call")
    assert ahead.works == pytest.approx({1: 1 / 3, 2: 2 / 3})
    split["inputs"]["max_gpus"] = 2
    assert bridge.gpus_ahead(graph, "9").words.endswith("with guidance 2 GPUs: prompt | negative")
    assert bridge.gpus_ahead({}, "9") == bridge.ONE_GPU


def test_copies_without_dynamic_memory_are_in_main_memory_one_by_one(bridge, model, on):
    facts = bridge.model_facts(bridge.with_s2v_forward(on(model, 3)))
    assert not facts.is_file_backed
    assert facts.host_bytes == 3 * facts.weights_bytes


def test_node_and_log_say_what_the_gpus_do(bridge, model, on, monkeypatch, caplog):
    display = pack_module("wan_s2v_model.comfy_bridge.display")
    shown, progress = [], pack_module("wan_s2v_model.sampling.progress").Progress(1, 5)
    monkeypatch.setattr(display, "text_display", lambda: shown.append)
    with caplog.at_level("INFO"), clip_sampler(bridge, on(model, 2)).report_to(progress, 5) as _:
        pass
    assert "2 GPUs: prompt | negative" in caplog.text


# Trouble


def test_error_of_one_device_is_that_of_the_sampler_and_leaves_no_thread(bridge, model, on, monkeypatch):
    module = pack_module("wan_s2v_model.transformer.blocks")
    sampler, before, calls = clip_sampler(bridge, on(model, 4)), threading.active_count(), []
    forward = module.Block.forward

    def fail(*args, **options):
        calls.append(threading.current_thread().name)
        if len(calls) == 9:
            raise ValueError("a lost device")
        return forward(*args, **options)

    monkeypatch.setattr(module.Block, "forward", fail)
    with pytest.raises(ValueError, match="a lost device"):
        sample_clip(sampler)
    assert threading.active_count() == before
    assert len(calls) <= 9 + 4, "within one block"


def test_out_of_memory_on_one_device_begins_the_clip_again(bridge, model, on, monkeypatch):
    alone = sample_clip(clip_sampler(bridge, model, **WITHOUT_GUIDANCE))
    module, failed = pack_module("wan_s2v_model.transformer.blocks"), []
    forward = module.Block.forward

    def fail(*args, **options):
        if not failed and threading.current_thread().name.startswith("wan_s2v"):
            failed.append(True)
            raise torch.OutOfMemoryError("of a helper")
        return forward(*args, **options)

    monkeypatch.setattr(module.Block, "forward", fail)
    shared = sample_clip(clip_sampler(bridge, on(model, 2), **WITHOUT_GUIDANCE))
    assert failed
    torch.testing.assert_close(shared, alone, **CLOSE)


def test_cancelling(bridge, model, on):
    import comfy.model_management

    sampler, before = clip_sampler(bridge, on(model, 3)), threading.active_count()
    sampler.on_step = lambda done, x0: comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample_clip(sampler)
    assert threading.active_count() == before


MANY = int(os.environ.get("WAN_S2V_MANY_PROMPTS", "10"))


def test_many_prompts_in_a_row_leave_nothing(bridge, checkpoint, on):
    """No thread, no copy of the MODEL, no tensor; WAN_S2V_MANY_PROMPTS says how many prompts."""
    model, seen = load_ours(bridge, checkpoint), []
    for number in range(MANY):
        split = on(model, 2)
        sample_clip(clip_sampler(bridge, split, steps=1, cfg=1.0 if number % 2 else 4.5), num_latent_frames=1)
        del split
        seen.append(what_remains())
    assert seen[4:] == [seen[4]] * (MANY - 4)


# Copies


def test_replaced_module_of_a_copy_is_its_own(bridge, model, on, forwards):
    """As WanVideoNAG does it: a method of the module, with its layers."""
    import types

    seen = set()

    def cross_attention(module, x, context, **_):
        seen.add(id(module.q))
        return module.o(module.q(x))

    patched = on(model, 2).clone()
    module = patched.model.diffusion_model.blocks[0].cross_attn
    patched.add_object_patch("diffusion_model.blocks.0.cross_attn.forward", types.MethodType(cross_attention, module))
    sample_clip(clip_sampler(bridge, patched))
    assert len(seen) == 2


def test_lora_on_raw_parameters_of_copies(bridge, model, on, one_by_one):
    patches = {"diffusion_model.blocks.0.modulation": ("diff", (0.5 * randn(1, 6, 256),))}
    results = []
    for each in (model, on(model, 2)):
        patched = each.clone()
        patched.add_patches(patches, 1.0)
        results.append(one_by_one(clip_sampler(bridge, patched)))
    assert torch.equal(*results)
    assert (results[0] - sample_clip(clip_sampler(bridge, model))).abs().max() > 0.01


def test_offload_is_that_of_the_loader_on_copies_too(bridge, checkpoint, on):
    gpus_of = pack_module("wan_s2v_model.comfy_bridge.gpus").gpus_of
    for offload in (True, False):
        model = on(bridge.load_diffusion_model(checkpoint, OPTIONS, offload=offload), 3)
        assert [getattr(each.model, "disable_offload", False) for each in gpus_of(model)] == [not offload] * 3


def test_a_run_goes_on_with_another_number_of_gpus(bridge, model, on):
    identity = pack_module("wan_s2v_model.runs.identity")
    for of in (identity.model_identity, identity.attachments):
        assert of(on(model, 3)) == of(on(model, 2)) == of(model)
