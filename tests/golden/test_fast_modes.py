"""Guidance on a part of the steps, ComfyUI's caching nodes and torch.compile: which calls are made, and that nothing stays behind."""

import itertools

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

STEPS = 5
POSITIVE, NEGATIVE = 0, 1  # in ComfyUI's cond_or_uncond
NODES = ("EasyCache", "LazyCache")


def randn(seed, *shape):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def clip_sampler(bridge, model, positive_options=None, **settings):
    text = [[randn(4, 9, 64), positive_options or {}]], [[randn(6, 9, 64), {}]]
    defaults = {"steps": STEPS, "cfg": 4.5, "shift": 3.0, "solver": "unipc"}
    return bridge.ClipSampler(model, *text, bridge.SamplerSettings(**{**defaults, **settings}), seed=42)


def sample_clip(sampler, clip=0, num_latent_frames=2):
    conditioning = pack_module("wan_s2v_model.conditioning.clip").ClipConditioning(
        audio_embedding=randn(1, 25, 32, 4 * num_latent_frames),
        ref_latents=randn(2, 16, 1, 8, 8),
        motion_latents=randn(3 + clip, 16, 19, 8, 8),
    )
    return sampler(clip, conditioning, randn(5 + clip, 16, num_latent_frames, 8, 8))


def watched(model, calls):
    """A clone that notes the timestep and the conditionings of every model call, behind the nodes that it has passed already."""
    import comfy.patcher_extension

    def note(executor, x, timestep, *args, **kwargs):
        options = next(value for value in (*args[::-1], kwargs.get("transformer_options")) if isinstance(value, dict))
        calls.append((float(timestep[0]), tuple(sorted(options["cond_or_uncond"]))))
        return executor(x, timestep, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "watched", note)
    return model


def conditions_of_steps(calls):
    """Which conditionings each step asked for, in one call or in two."""
    steps = itertools.groupby(calls, key=lambda call: call[0])
    return [sorted(condition for _, conditions in step for condition in conditions) for _, step in steps]


def with_cache(name, model, threshold=3.0):
    from comfy_extras import nodes_easycache

    node = getattr(nodes_easycache, f"{name}Node")
    return node.execute(model, reuse_threshold=threshold, start_percent=0.1, end_percent=0.95, verbose=False).result[0]


# Guidance


@pytest.mark.parametrize("load", [load_ours, load_native])
@pytest.mark.parametrize(
    ("start", "end", "guided"),
    [(0.0, 1.0, range(5)), (0.0, 0.6, range(3)), (0.4, 1.0, range(2, 5)), (0.2, 0.8, range(1, 4)), (0.0, 0.01, range(1))],
)
def test_negative_calls_are_made_in_the_guided_steps_only(bridge, checkpoint, load, start, end, guided):
    calls = []
    sampler = clip_sampler(bridge, watched(load(bridge, checkpoint), calls), cfg_start=start, cfg_end=end)
    assert torch.isfinite(sample_clip(sampler)).all()
    assert conditions_of_steps(calls) == [[POSITIVE, NEGATIVE] if step in guided else [POSITIVE] for step in range(STEPS)]
    assert sampler.calls_per_step * STEPS == STEPS + len(guided)


def test_the_second_call_of_a_step_belongs_to_the_next_one(bridge, model):
    calls = []
    sample_clip(clip_sampler(bridge, watched(model, calls), solver="heun", cfg_end=0.4))
    at_level = [1, 2, 2, 2, 2]  # calls: each step looks at its own level and at the next one, but not at 0
    assert [len(conditions) for conditions in conditions_of_steps(calls)] == [2 * at_level[0], 2 * at_level[1], *at_level[2:]]


def test_every_share_of_guidance_gives_another_clip_and_the_smallest_is_one_step(bridge, model):
    whole, half, late, least, one, cfg_1 = (
        sample_clip(clip_sampler(bridge, model, **settings))
        for settings in ({}, {"cfg_end": 0.6}, {"cfg_start": 0.6}, {"cfg_end": 0.01}, {"cfg_end": 0.2}, {"cfg": 1.0})
    )
    assert torch.equal(least, one)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations((whole, half, late, one, cfg_1), 2))


@pytest.mark.parametrize("cfg", [4.5, 1.0])
def test_guidance_on_all_steps_gives_the_bits_of_comfyui_s_own_guider(bridge, model, monkeypatch, cfg):
    import comfy.samplers

    class Plain(comfy.samplers.CFGGuider):
        def __init__(self, model, text, audio, steps, gpus):
            super().__init__(model)
            self.set_cfg(cfg)

        def set_conds(self, positive, negative, silent):
            super().set_conds(positive, negative)

    ours = sample_clip(clip_sampler(bridge, model, cfg=cfg))
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.sampling"), "ScaledGuider", Plain)
    assert torch.equal(sample_clip(clip_sampler(bridge, model, cfg=cfg)), ours)


def test_a_node_may_ask_for_the_negative_call_of_every_step(bridge, model):
    """As nodes do that replace the guidance; they set this option of the MODEL."""
    calls = []
    patched = watched(model, calls)
    patched.model_options["disable_cfg1_optimization"] = True
    sample_clip(clip_sampler(bridge, patched, cfg_end=0.4))
    assert conditions_of_steps(calls) == [[POSITIVE, NEGATIVE]] * STEPS


# Caches


@pytest.mark.parametrize("load", [load_ours, load_native])
@pytest.mark.parametrize("name", NODES)
def test_cache_skips_steps_and_keeps_nothing(bridge, checkpoint, load, name):
    calls = []
    model = load(bridge, checkpoint)
    plain = [sample_clip(clip_sampler(bridge, watched(model, calls)), clip) for clip in (0, 1)]
    all_calls = len(calls)
    calls.clear()
    cached = watched(with_cache(name, model), calls)
    sampler = clip_sampler(bridge, cached)
    clips = [sample_clip(sampler, clip) for clip in (0, 1)]
    assert 0 < len(calls) < all_calls
    assert all(torch.isfinite(clip).all() for clip in clips)
    assert not any(torch.equal(clip, exact) for clip, exact in zip(clips, plain, strict=True))
    assert torch.equal(sample_clip(sampler, 1), clips[1]), "a clip depends on those sampled before it"
    assert torch.equal(sample_clip(clip_sampler(bridge, cached), 1), clips[1]), "a run depends on the one before it"
    assert torch.equal(sample_clip(sampler, 0, num_latent_frames=3), sample_clip(clip_sampler(bridge, cached), 0, num_latent_frames=3))
    assert torch.equal(sample_clip(clip_sampler(bridge, model), 0), plain[0])


@pytest.mark.parametrize("name", NODES)
def test_cache_that_skips_nothing_gives_the_same_bits(bridge, model, name):
    exact = sample_clip(clip_sampler(bridge, model))
    assert torch.equal(sample_clip(clip_sampler(bridge, with_cache(name, model, threshold=0.0))), exact)


@pytest.mark.parametrize(("name", "still_skips"), [("EasyCache", False), ("LazyCache", True)])
def test_cache_with_guidance_on_a_part_of_the_steps(bridge, model, name, still_skips):
    """EasyCache watches the first condition of a batch, the negative one, and so stops where guidance stops."""
    calls = []
    cached = watched(with_cache(name, model), calls)
    assert torch.isfinite(sample_clip(clip_sampler(bridge, cached, steps=10, cfg_end=0.6))).all()
    steps = conditions_of_steps(calls)
    assert 0 < steps.count([POSITIVE, NEGATIVE]) < 6
    assert (steps.count([POSITIVE]) < 4) == still_skips


@pytest.mark.parametrize("name", NODES)
def test_cache_after_a_cancel(bridge, model, name):
    class CancelledError(BaseException):
        pass

    def cancel(done, x0):
        if done == 3:
            raise CancelledError

    sampler = clip_sampler(bridge, with_cache(name, model))
    expected = sample_clip(sampler)
    sampler.on_step = cancel
    with pytest.raises(CancelledError):
        sample_clip(sampler)
    sampler.on_step = lambda done, x0: None
    assert torch.equal(sample_clip(sampler), expected)


# torch.compile


@pytest.fixture
def compiled(monkeypatch):
    """Compile parts of a MODEL as ComfyUI's TorchCompileModel node does, with the backend that only traces."""
    import comfy.ldm.modules.attention as attention
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
    from torch._dynamo.utils import counters

    def apply(model, keys):
        model = model.clone(disable_dynamic=True)
        set_torch_compile_wrapper(model, backend="eager", options={"guard_filter_fn": skip_torch_compile_dict}, keys=keys)
        return model

    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)  # the CPU's own one looks at the free memory
    yield apply, lambda: (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()))
    torch.compiler.reset()


def test_compiled_blocks_are_four_graphs_without_a_break_in_all_clips(bridge, model, compiled):
    """The first, whose self attention is shared, those behind an audio injector, those in which a sum waits, and the last."""
    apply, graphs_and_breaks = compiled
    expected = [sample_clip(clip_sampler(bridge, model), clip) for clip in (0, 1)]
    blocks = [f"diffusion_model.blocks.{index}" for index in range(len(model.model.diffusion_model.blocks))]
    sampler = clip_sampler(bridge, apply(model, blocks))
    for clip in (0, 1):
        assert torch.equal(sample_clip(sampler, clip), expected[clip])
        assert graphs_and_breaks() == (4, 0), f"clip {clip}"


@pytest.mark.parametrize("load", [load_ours, load_native])
def test_whole_model_is_compiled_in_the_first_clip_only(bridge, checkpoint, compiled, load):
    apply, graphs_and_breaks = compiled
    model = load(bridge, checkpoint)
    expected = [sample_clip(clip_sampler(bridge, model), clip) for clip in (0, 1)]
    sampler = clip_sampler(bridge, apply(model, ["diffusion_model"]))
    assert torch.equal(sample_clip(sampler, 0), expected[0])
    first = graphs_and_breaks()
    assert first[0] > 2
    assert torch.equal(sample_clip(sampler, 1), expected[1])
    assert torch.equal(sample_clip(clip_sampler(bridge, model), 0), expected[0])
    assert graphs_and_breaks() == first
