"""The pose in the steps that it is meant for, and what its strength does, through ComfyUI's sampling."""

import itertools
from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import STEPS, clip_sampler, randn, sample_clip, with_cache
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

POSE = randn(9, 16, 2, 8, 8)


@pytest.fixture(scope="module", params=[load_ours, load_native])
def model(request, bridge, checkpoint):
    return request.param(bridge, checkpoint)


@pytest.fixture
def seen(monkeypatch):
    """The pose latents of every model call."""
    transformer = pack_module("wan_s2v_model.transformer.model").WanS2VTransformer
    forward, calls = transformer.forward, []

    def note(self, x, timestep, conditions, *args, **kwargs):
        calls.append(conditions.pose_latents)
        return forward(self, x, timestep, conditions, *args, **kwargs)

    monkeypatch.setattr(transformer, "forward", note)
    return calls


def posed(sampler, pose=POSE, **changes):
    """A clip with a pose; `changes` to its conditioning."""

    class Posed:
        def __call__(self, clip, conditioning, noise):
            return sampler(clip, replace(conditioning, pose_latents=pose, **changes), noise)

    return sample_clip(Posed())


@pytest.mark.parametrize(
    ("shares", "steps"),
    [
        ((0.0, 1.0), range(5)),
        ((0.0, 0.6), range(3)),
        ((0.4, 1.0), range(2, 5)),
        ((0.2, 0.8), range(1, 4)),
        ((0.0, 0.01), range(1)),
        ((1.0, 1.0), ()),
    ],
)
def test_the_pose_is_seen_in_its_steps_only(bridge, model, seen, shares, steps):
    posed(clip_sampler(bridge, model, cfg=1.0), pose_steps=shares)
    assert [pose is not None for pose in seen] == [step in steps for step in range(STEPS)]
    assert all(torch.allclose(pose.float(), POSE, atol=1e-5) for pose in seen if pose is not None)


def test_both_texts_see_the_pose_in_the_same_steps(bridge, model, seen):
    posed(clip_sampler(bridge, model), pose_steps=(0.0, 0.4))
    counts = [pose is not None for pose in seen]
    assert counts == sorted(counts, reverse=True)
    assert counts.count(True) * 3 == counts.count(False) * 2


def test_the_second_call_of_a_step_goes_by_its_own_noise(bridge, model, seen):
    posed(clip_sampler(bridge, model, solver="heun", cfg=1.0), pose_steps=(0.0, 0.4))
    assert [pose is not None for pose in seen] == [True, True, True] + [False] * 6  # levels 0 1, 1 2, 2 3, 3 4, 4


def test_every_share_gives_another_clip_and_the_smallest_is_one_step(bridge, model):
    sampler = clip_sampler(bridge, model)
    clips = [posed(sampler, pose_steps=shares) for shares in ((0.0, 1.0), (0.0, 0.6), (0.6, 1.0))]
    without = sample_clip(sampler)
    assert torch.equal(posed(sampler, pose_steps=(0.0, 0.01)), posed(sampler, pose_steps=(0.0, 0.2)))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations((*clips, without), 2))


def test_no_share_stays_behind(bridge, model):
    sampler = clip_sampler(bridge, model)
    expected = posed(sampler)
    posed(sampler, pose_steps=(0.0, 0.4))
    assert torch.equal(posed(sampler), expected)


def test_pose_of_zero_is_no_pose(bridge, model):
    sampler = clip_sampler(bridge, model)
    assert torch.equal(posed(sampler, POSE * 0), sample_clip(sampler))


def test_strength_scales_what_the_pose_adds(bridge, checkpoint):
    transformer = load_ours(bridge, checkpoint).model.diffusion_model
    Conditions, reference = pack_module("wan_s2v_model.transformer.model").Conditions, randn(2, 16, 1, 8, 8)
    told = {strength: Conditions(None, reference, pose_latents=POSE * strength) for strength in (0, 0.5, 1, 2)}
    tokens = {strength: transformer.embed_tokens(POSE, conditions)[0] for strength, conditions in told.items()}
    added = tokens[1] - tokens[0]
    for strength in (0.5, 2):
        torch.testing.assert_close(tokens[strength] - tokens[0], added * strength, rtol=0, atol=1e-5)
    assert added.abs().max() > 0.01


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_with_a_cache(bridge, model, name):
    assert torch.isfinite(posed(clip_sampler(bridge, with_cache(name, model)), pose_steps=(0.0, 0.6))).all()
