"""Attention against a plain float64 computation."""

import torch
from torch import nn
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Attention, Compute, sdpa
from wan_s2v_pack.wan_s2v_model.transformer.rope import rope_table, token_positions


def rms_norm(x, weight):
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


def rotate(x, angle):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)


def plain_attention(layer, x, context, angle=None):
    """[S, D] and [L, D] in float64."""
    p = {name: value.double() for name, value in layer.state_dict().items()}
    q = rms_norm(x @ p["q.weight"].T + p["q.bias"], p["norm_q.weight"]).unflatten(-1, (2, 128))
    k = rms_norm(context @ p["k.weight"].T + p["k.bias"], p["norm_k.weight"]).unflatten(-1, (2, 128))
    v = (context @ p["v.weight"].T + p["v.bias"]).unflatten(-1, (2, 128))
    if angle is not None:
        q, k = rotate(q, angle), rotate(k, angle)
    weights = (torch.einsum("shd,lhd->hsl", q, k) / 128**0.5).softmax(dim=-1)
    return torch.einsum("hsl,lhd->shd", weights, v).flatten(1) @ p["o.weight"].T + p["o.bias"]


def make_layer(config, randomised):
    return randomised(Attention(config, operations=nn))


def attend(layer, x, context, **options):
    return layer(x, layer.project(context), Compute(**options))


def test_cross_attention(tiny_config, randomised, noise):
    layer = make_layer(tiny_config, randomised)
    x, context = noise(1, 6, 256), noise(1, 9, 256, seed=1)
    expected = plain_attention(layer, x[0].double(), context[0].double())
    torch.testing.assert_close(attend(layer, x, context)[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_self_attention_with_rotation(tiny_config, randomised, noise):
    layer = make_layer(tiny_config, randomised)
    positions = token_positions(1, 4, 4, with_motion=False)
    x = noise(1, len(positions), 256)
    frequencies = [10_000 ** (-j / m) for m in (22, 21, 21) for j in range(m)]
    places = positions.double().repeat_interleave(torch.tensor([22, 21, 21]), dim=1)
    expected = plain_attention(layer, x[0].double(), x[0].double(), places * torch.tensor(frequencies, dtype=torch.float64))
    torch.testing.assert_close(
        layer.self_attention(lambda: x, rope_table(positions, 128), Compute())[0].double(), expected, atol=1e-5, rtol=1e-5
    )


def test_kernel_gets_normed_tensors_heads_and_options(tiny_config, randomised, noise):
    layer, calls = make_layer(tiny_config, randomised), []

    def kernel(q, k, v, heads, **options):
        calls.append((q, k, v, heads, options))
        return sdpa(q, k, v, heads)

    x, context = noise(2, 6, 256), noise(2, 9, 256, seed=1)
    options = {"block_index": 3}
    assert torch.equal(attend(layer, x, context, attention=kernel, transformer_options=options), attend(layer, x, context))
    ((q, k, v, heads, given),) = calls
    assert (q.shape, k.shape, v.shape, heads) == ((2, 6, 256), (2, 9, 256), (2, 9, 256), 2)
    assert given["transformer_options"] is options
    assert torch.equal(v, layer.v(context))


def test_batch_entries_do_not_mix(tiny_config, randomised, noise):
    layer = make_layer(tiny_config, randomised)
    x, context = noise(2, 6, 256), noise(2, 9, 256, seed=1)
    single = torch.cat([attend(layer, x[i : i + 1], context[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(attend(layer, x, context), single)
