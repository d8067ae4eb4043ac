"""Layers in the dtype of their input, whatever the dtype of their weights."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from wan_s2v_pack.wan_s2v_model.kernels.casting import run_as_input


def plain_norm(x, eps=1e-6):
    x = x - x.mean(dim=-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def test_layers_run_in_the_dtype_of_their_input(noise):
    x = noise(2, 3, 8)
    linear = nn.Linear(8, 4, dtype=torch.bfloat16).requires_grad_(False)
    torch.testing.assert_close(run_as_input(linear, x), x @ linear.weight.float().T + linear.bias.float())
    norm = nn.LayerNorm(8, eps=0.3, dtype=torch.bfloat16).requires_grad_(False)
    torch.testing.assert_close(run_as_input(norm, x), plain_norm(x, 0.3))
    conv = nn.Conv1d(3, 2, 3, stride=2, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    torch.testing.assert_close(run_as_input(conv, x), F.conv1d(x, conv.weight.float(), stride=2))


def test_layer_that_was_changed_runs_as_it_is(noise):
    x, linear = noise(2, 3, 8), nn.Linear(8, 4).requires_grad_(False)
    plain = linear(x)
    linear.forward = lambda x: nn.Linear.forward(linear, x) + 100
    torch.testing.assert_close(run_as_input(linear, x), plain + 100)


@pytest.mark.parametrize(("casts", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
def test_changed_layer_gets_what_it_takes(noise, casts, dtype):
    """ComfyUI's layers cast only where it has told them to."""
    linear, seen = nn.Linear(8, 4, dtype=torch.bfloat16).requires_grad_(False), []
    linear.comfy_cast_weights = casts
    linear.forward = lambda x: seen.append(x.dtype) or x[..., :4]
    assert run_as_input(linear, noise(2, 8)).dtype == torch.float32
    assert seen == [dtype]


def test_layers_use_the_given_cast(noise):
    @contextmanager
    def doubled(layer, x):
        yield 2 * layer.weight, layer.bias

    linear = nn.Linear(8, 4, bias=False).requires_grad_(False)
    x = noise(2, 8)
    torch.testing.assert_close(run_as_input(linear, x, doubled), 2 * linear(x))
