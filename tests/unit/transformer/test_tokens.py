"""Latents to tokens and back."""

import pytest
import torch
from torch import nn
from wan_s2v_pack.wan_s2v_model.transformer.tokens import embed_patches, unpatchify


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 4, 4), (4, 8, 8)])
def test_tokens_are_those_of_the_convolution(noise, randomised, size):
    layer = randomised(nn.Conv3d(16, 24, kernel_size=size, stride=size))
    latents = noise(2, 16, 4, 8, 16)
    tokens = embed_patches(layer, latents)
    assert tokens.is_contiguous()
    torch.testing.assert_close(tokens, layer(latents).flatten(2).transpose(1, 2))


def test_convolution_that_was_changed_runs_as_it_is(noise):
    layer = nn.Conv3d(16, 24, kernel_size=(1, 2, 2), stride=(1, 2, 2)).requires_grad_(False)
    latents = noise(2, 16, 3, 5, 6)
    plain = embed_patches(layer, latents)
    layer.forward = lambda x: nn.Conv3d.forward(layer, x) + 100
    torch.testing.assert_close(embed_patches(layer, latents), plain + 100, atol=1e-4, rtol=1e-5)


def test_weights_are_taken_in_the_dtype_of_the_latents(noise):
    layer = nn.Conv3d(16, 24, kernel_size=(1, 2, 2), stride=(1, 2, 2), dtype=torch.bfloat16)
    assert embed_patches(layer, noise(1, 16, 1, 4, 4)).dtype == torch.float32


def test_patches_unfold_by_row_column_channel(noise):
    patches = noise(2, 3 * 2 * 4, 64)  # 3 frames of 4 x 8 latents
    latents = unpatchify(patches, 3, 4, 8)
    assert latents.shape == (2, 16, 3, 4, 8)
    for frame, row, column, channel in [(0, 0, 0, 0), (2, 3, 7, 15), (1, 2, 5, 9), (1, 3, 0, 1)]:
        token = frame * 8 + (row // 2) * 4 + column // 2
        assert torch.equal(latents[:, channel, frame, row, column], patches[:, token, ((row % 2) * 2 + column % 2) * 16 + channel])
