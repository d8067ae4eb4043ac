"""Attention to a few keys with the projection in front (Triton's interpreter), against attention and projection one after the other."""

import pytest
import torch
from torch import nn
from wan_s2v_pack.wan_s2v_model.transformer.audio_injector import AudioInjector, Voice
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Attention, Compute, Residual, sdpa

triton_few_keys = pytest.importorskip("wan_s2v_pack.wan_s2v_model.kernels.triton_few_keys", exc_type=ImportError)
HEADS, HEAD_DIM = 2, 128
DIM = HEADS * HEAD_DIM


@pytest.mark.parametrize(("num_rows", "num_keys"), [(70, 5), (64, 1), (3, 17), (130, 5)])
def test_weights_are_softmax_over_the_keys_of_each_head(noise, num_rows, num_keys):
    q, k = 3 * noise(2, num_rows, DIM), noise(2, num_keys, DIM, seed=1)
    scores = torch.einsum("bnhd,bthd->bnht", *(t.double().unflatten(-1, (HEADS, -1)) for t in (q, k))) / HEAD_DIM**0.5
    weights = triton_few_keys.weights_of_keys(q, k, HEADS)
    torch.testing.assert_close(weights[..., : HEADS * num_keys].double(), scores.softmax(-1).flatten(2), atol=1e-6, rtol=1e-5)
    assert (weights[..., HEADS * num_keys :] == torch.eye(8)[0]).all()


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.5), (torch.float16, 1.2)])
def test_result_is_that_of_attention_and_projection(noise, dtype, factor):
    """The interpreter computes in float16, not in bfloat16."""
    heads = 5  # no power of 2: a part of the bias would be rounded
    size = heads * HEAD_DIM
    q, k, v = (noise(3, length, size, seed=length).to(dtype) for length in (20, 5, 6))
    v, weight, bias = v[:, :5], (noise(size, size, seed=3) / size**0.5).to(dtype), noise(size, seed=4).to(dtype)
    exact = sdpa(q.double(), k.double(), v.double(), heads) @ weight.double().T + bias.double()
    plain = nn.functional.linear(sdpa(q, k, v, heads), weight, bias)
    ours = triton_few_keys.few_key_attention(q, k, v, weight, bias, heads)
    error, plain_error = ((out.double() - exact).norm() / exact.norm() for out in (ours, plain))
    assert error <= factor * plain_error


def test_self_test():
    assert triton_few_keys.disagreement(torch.device("cpu"), torch.float32) < 1e-5


def test_module_attends_like_its_forward(noise, tiny_config, randomised):
    attention = randomised(Attention(tiny_config, operations=nn))
    x, k, v = noise(4, 6, tiny_config.dim), noise(4, 5, tiny_config.dim, seed=1), noise(4, 5, tiny_config.dim, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(attention.few_key_attention(x, k, v, Compute()), attention(x, (k, v), Compute()), atol=1e-5, rtol=1e-5)


def test_projection_that_an_adapter_changed_runs_as_it_is(noise, tiny_config, randomised, monkeypatch):
    """Fused or not, what the adapter adds to the projection comes out."""
    injector = randomised(AudioInjector(tiny_config, operations=nn))
    audio = injector.project(noise(1, 3, 1, tiny_config.dim), noise(1, 3, 5, tiny_config.dim, seed=1), torch.float32)

    def run():
        stream = Residual(noise(1, 12, tiny_config.dim, seed=2), split=12)
        with torch.no_grad():
            return injector(stream, tiny_config.audio_inject_layers[0], [Voice(audio)], Compute()).summed()

    plain, layer = run(), injector.injector[0].o
    layer.forward = lambda x: nn.Linear.forward(layer, x) + 100
    for kernels_work in (False, True):
        monkeypatch.setattr("wan_s2v_pack.wan_s2v_model.transformer.audio_injector.products_work", lambda device, works=kernels_work: works)
        torch.testing.assert_close(run(), plain + 100, atol=1e-4, rtol=1e-5)
