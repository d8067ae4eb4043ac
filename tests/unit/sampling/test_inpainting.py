"""What is kept of the latents, in the middle and at the end of sampling."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.conditioning.clip import KeptSource
from wan_s2v_pack.wan_s2v_model.sampling.inpainting import Inpainting, at_level
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule
from wan_s2v_pack.wan_s2v_model.sampling.solvers import SOLVERS

SHAPE = (1, 16, 3, 4, 6)


def randn(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def may_change():
    mask = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.bool)
    mask[..., 1:3, 2:5] = True
    return mask


def test_what_is_kept_has_the_noise_of_the_level(may_change):
    source, noise, x = randn(0), randn(1), randn(2)
    noised = Inpainting(KeptSource(source, may_change), noise).noised(x, torch.tensor([0.25]))
    inside = may_change.expand(SHAPE)
    assert torch.equal(noised[inside], x[inside])
    assert torch.equal(noised[~inside], (0.25 * noise + 0.75 * source)[~inside])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_solvers_end_with_the_bits_of_the_source(solver, strength, may_change):
    """In every step the model sees the source at the level of the step, and the sample itself follows it."""
    source, noise = randn(0), randn(1)
    kept, seen = Inpainting(KeptSource(source, may_change), noise), []

    def model(x, sigma):
        x = kept.noised(x, sigma)
        seen.append((float(sigma[0]), x))
        return kept.restored(0.5 * x)

    sigmas = build_schedule(solver, 6, 3.0, strength).sigmas
    result = SOLVERS[solver].sample(model, at_level(source, noise, sigmas[0]), sigmas)
    outside = ~may_change.expand(SHAPE)
    assert len(seen) == 6
    assert all(torch.equal(x[outside], at_level(source, noise, torch.tensor([level]))[outside]) for level, x in seen)
    assert torch.equal(result[outside], source[outside])
    assert not torch.isclose(result[~outside], source[~outside]).any()
