"""Dubbing through ComfyUI's samplers: what the model sees of the source, and that it comes out as it went in."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler, randn

pytestmark = pytest.mark.comfy

SHAPE = (16, 2, 8, 8)
SOLVERS = ("unipc", "dpm++", "euler", "heun", "dpmpp_2m_sde", "uni_pc", "lcm", "euler_ancestral")


def may_change():
    mask = torch.zeros(1, 1, *SHAPE[1:], dtype=torch.bool)
    mask[..., 2:6, 3:7] = True
    return mask


def dub(bridge, model, source=None, told=None, **settings):
    clip = pack_module("wan_s2v_model.conditioning.clip")
    source = randn(8, *SHAPE) if source is None else source
    conditioning = clip.ClipConditioning(
        audio_embedding=randn(1, 25, 32, 8),
        ref_latents=randn(2, 16, 1, 8, 8),
        motion_latents=randn(3, 16, 19, 8, 8),
        kept=clip.KeptSource(source, may_change()),
    )
    conditioning = replace(conditioning, **told or {})
    return clip_sampler(bridge, model, **settings)(0, conditioning, randn(5, *SHAPE))


def watch_samples(model, seen):
    """A clone that notes level and sample of every model call."""
    model = model.clone()

    def note(apply_model, arguments):
        seen.append((float(arguments["timestep"][0]), arguments["input"][:1].clone()))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(note)
    return model


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_keeps_the_source_and_makes_the_rest(bridge, model, solver, strength):
    seen = []
    latents, source = dub(bridge, watch_samples(model, seen), solver=solver, strength=strength), randn(8, *SHAPE)
    outside = ~may_change().expand(1, *SHAPE)
    assert torch.isfinite(latents).all()
    assert torch.equal(latents[outside], source[outside])
    assert not torch.isclose(latents[~outside], source[~outside]).all()
    for level, sample in seen:
        noised = level * randn(5, *SHAPE) + (1 - level) * source
        assert torch.allclose(sample[outside], noised[outside], atol=1e-5)
    first = max(level for level, _ in seen)
    assert (first > 0.99) == (strength == 1)


def test_several_speakers_of_a_dub_are_heard_each_in_its_region(bridge, model):
    sounds = [randn(seed, 25, 32, 8)[0] for seed in (1, 31)]
    left = torch.zeros(2, 2, 4, 4)
    left[0, ..., :2], left[1, ..., 2:] = 1, 1
    one, other = (
        dub(bridge, model, told={"audio_embedding": torch.stack(order)[None], "hearing": left}) for order in (sounds, sounds[::-1])
    )
    source, outside = randn(8, *SHAPE), ~may_change().expand(1, *SHAPE)
    assert torch.equal(one[outside], source[outside])
    assert (one - other).abs().mean() > 1e-4


def test_less_strength_begins_from_the_source_inside_too(bridge, model):
    first = []
    for strength in (1.0, 0.2):
        seen = []
        dub(bridge, watch_samples(model, seen), 10 * torch.ones(1, *SHAPE), strength=strength, steps=2)
        first.append(seen[0][1][may_change().expand(1, *SHAPE)].mean())
    assert abs(first[0]) < 0.5
    assert first[1] > 5


def test_guidance_by_the_sound_and_guessed_steps_keep_the_source(bridge, model):
    guidance, cache = (pack_module(f"wan_s2v_model.sampling.{name}") for name in ("guidance", "step_cache"))
    settings = {"audio": guidance.AudioGuidance(6.0), "step_cache": cache.StepCache(0.5, 8)}
    latents, outside = dub(bridge, model, **settings), ~may_change().expand(1, *SHAPE)
    assert torch.equal(latents[outside], randn(8, *SHAPE)[outside])


def test_given_sigmas_and_a_strength_are_refused(bridge, model):
    with pytest.raises(ValueError, match="both say at which noise level a clip begins"):
        dub(bridge, model, sigmas=torch.tensor([1.0, 0.5, 0.0]), strength=0.5)
    dub(bridge, model, sigmas=torch.tensor([0.7, 0.5, 0.0]))
