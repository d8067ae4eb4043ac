"""Several speakers through ComfyUI's guider: in one call and in context windows, on one device and on two, on any loader's MODEL."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.test_fast_modes import clip_sampler, randn, sample_clip
from wan_s2v_pack.tests.golden.test_other_nodes import NUM_LATENT_FRAMES, calls, with_windows  # noqa: F401  # a fixture
from wan_s2v_pack.tests.golden.tiny_model import load_native, load_ours

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 3e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def model(bridge, checkpoint):
    return load_ours(bridge, checkpoint)


def hearing(num_latent_frames):
    """Two speakers; the border between them moves to the right by a token with every latent."""
    weights = torch.zeros(2, num_latent_frames, 4, 4)
    for latent in range(num_latent_frames):
        weights[0, latent, :, : latent % 5] = 1
    weights[1] = 1 - weights[0]
    return weights


def spoken(sampler, sounds, weights):
    """Samples a clip in which these sounds [25, 32, 4F] are heard where the weights say."""

    def sample(clip, conditioning, noise):
        return sampler(clip, replace(conditioning, audio_embedding=torch.stack(sounds)[None], hearing=weights), noise)

    return sample


SOUNDS = [randn(seed, 25, 32, 8)[0] for seed in (1, 31)]


def test_one_speaker_everywhere_gives_the_same_bits(bridge, model):
    plain = sample_clip(clip_sampler(bridge, model))  # its sound is the first of SOUNDS
    assert torch.equal(sample_clip(spoken(clip_sampler(bridge, model), SOUNDS[:1], torch.ones(1, 2, 4, 4))), plain)


def test_two_speakers_with_one_sound_are_as_one_and_nothing_stays_behind(bridge, model):
    plain = sample_clip(clip_sampler(bridge, model))
    sampler = clip_sampler(bridge, model)
    torch.testing.assert_close(sample_clip(spoken(sampler, [SOUNDS[0]] * 2, hearing(2))), plain, **CLOSE)
    assert torch.equal(sample_clip(sampler), plain)


def test_the_model_of_another_loader_hears_the_same(bridge, model, checkpoint):
    results = [
        sample_clip(spoken(clip_sampler(bridge, each, cfg=1.0), SOUNDS, hearing(2))) for each in (model, load_native(bridge, checkpoint))
    ]
    torch.testing.assert_close(*results, **CLOSE)


def test_each_sound_counts_with_guidance_of_its_own(bridge, model):
    audio = pack_module("wan_s2v_model.sampling.guidance").AudioGuidance(6.0, 0.0, 0.8, 0.9)
    results = [
        sample_clip(spoken(clip_sampler(bridge, model, audio=audio), [*sounds], hearing(2)))
        for sounds in (SOUNDS, SOUNDS[::-1], [SOUNDS[0]] * 2)
    ]
    for index in range(3):
        assert (results[index] - results[index - 1]).abs().mean() > 1e-4


def test_two_devices_give_what_one_gives(bridge, model, on):
    alone = sample_clip(spoken(clip_sampler(bridge, model, cfg=1.0), SOUNDS, hearing(2)))
    torch.testing.assert_close(sample_clip(spoken(clip_sampler(bridge, on(model, 2), cfg=1.0), SOUNDS, hearing(2))), alone, **CLOSE)


@pytest.mark.parametrize("anchor", [False, True])
def test_every_window_has_its_own_regions(bridge, model, calls, anchor):  # noqa: F811
    numbers = torch.arange(4 * NUM_LATENT_FRAMES).expand(25, 32, -1).float()
    weights = hearing(NUM_LATENT_FRAMES)
    sampler = clip_sampler(bridge, with_windows(model, anchor), cfg=1.0)
    assert torch.isfinite(sample_clip(spoken(sampler, [numbers, -numbers], weights), num_latent_frames=NUM_LATENT_FRAMES)).all()
    starts = set()
    for num_latents, conditions in calls:
        latents = conditions.audio_embedding[0, 0, 0, 0, ::4].div(4).int().tolist()
        starts.add(latents[0])
        assert len(latents) == num_latents
        assert torch.equal(conditions.regions.weights, weights[:, latents])
    assert len(starts) > 1
