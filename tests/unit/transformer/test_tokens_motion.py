"""History latents -> tokens."""

import pytest
import torch
from torch import nn
from wan_s2v_pack.wan_s2v_model.transformer.tokens import MotionPacker

NEAR, MIDDLE, FAR = slice(0, 96), slice(96, 120), slice(120, 144)  # tokens of 16 x 24 latents: 8*12, 4*6, 4 * 2*3


@pytest.fixture(scope="module")
def packer(tiny_config, randomised):
    return randomised(MotionPacker(tiny_config, operations=nn))


def changed_tokens(packer, latents, index):
    """Tokens that depend on latent `index`."""
    other = latents.clone()
    other[:, :, index] += 1
    return set((packer(latents) != packer(other)).any(dim=-1)[0].nonzero()[:, 0].tolist())


def tokens(part):
    return set(range(144)[part])


def test_each_latent_reaches_its_own_bucket(packer, noise):
    latents = noise(1, 16, 19, 16, 24)
    assert packer(latents).shape == (1, 144, 256)
    assert changed_tokens(packer, latents, 18) == tokens(NEAR)
    assert changed_tokens(packer, latents, 17) == changed_tokens(packer, latents, 16) == tokens(MIDDLE)
    for index in range(16):
        group = index // 4  # oldest group first
        assert changed_tokens(packer, latents, index) == set(range(120 + 6 * group, 126 + 6 * group))


def test_buckets_are_the_three_convolutions(packer, noise):
    latents = noise(2, 16, 19, 16, 24)
    packed = packer(latents)
    for part, layer, history in (
        (NEAR, packer.proj, latents[:, :, 18:]),
        (MIDDLE, packer.proj_2x, latents[:, :, 16:18]),
        (FAR, packer.proj_4x, latents[:, :, :16]),
    ):
        torch.testing.assert_close(packed[:, part], layer(history).flatten(2).transpose(1, 2))


@pytest.mark.parametrize("count", [1, 2, 3, 18])
def test_short_history_is_padded_with_zeros_at_the_old_end(packer, noise, count):
    latents = noise(1, 16, 19, 16, 24)
    padded = latents.clone()
    padded[:, :, : 19 - count] = 0
    assert torch.equal(packer(latents[:, :, 19 - count :]), packer(padded))


def test_long_history_is_cut_to_the_newest(packer, noise):
    latents = noise(1, 16, 25, 16, 24)
    assert torch.equal(packer(latents), packer(latents[:, :, 6:]))


def test_sides_that_are_no_multiple_of_8_lose_their_last_rows(packer, noise):
    latents = noise(1, 16, 19, 10, 14)
    assert packer(latents).shape == (1, 5 * 7 + 2 * 3 + 4, 256)
    other = latents.clone()
    other[:, :, :16, 8:] += 1
    assert torch.equal(packer(latents), packer(other))


def test_dtype_follows_the_latents(packer, noise):
    assert packer(noise(1, 16, 19, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
