"""The audio encoder inside the transformer and the attention that injects its tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from wan_s2v_pack.wan_s2v_model.transformer.audio_injector import AdaLayerNorm, AudioInjector, CausalAudioEncoder, CausalConv, Voice
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute, Residual, sdpa


@pytest.fixture(scope="module")
def encoder(tiny_config, randomised):
    return randomised(CausalAudioEncoder(tiny_config, operations=nn))


@pytest.fixture(scope="module")
def injector(tiny_config, randomised):
    return randomised(AudioInjector(tiny_config, operations=nn))


def plain_norm(x, eps):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + eps)


# Encoder


@pytest.mark.parametrize("frames", [4, 12, 48, 80])
def test_one_global_and_five_local_tokens_per_latent_frame(encoder, noise, frames):
    whole, local = encoder(noise(2, 25, 8, frames))
    assert whole.shape == (2, frames // 4, 1, 256)
    assert local.shape == (2, frames // 4, 5, 256)


def test_context_before_the_clip_is_73_copies_of_its_first_frame(encoder, noise):
    features = noise(1, 25, 8, 16)
    whole, local = encoder.encode_padded(features)
    assert whole.shape[1] == 19 + 4
    repeated = torch.cat([features[..., :1].expand(-1, -1, -1, 73), features], dim=-1)
    mixed = (repeated * F.silu(encoder.weights)).sum(1) / F.silu(encoder.weights).sum()
    expected = encoder.encoder(mixed.transpose(1, 2))
    torch.testing.assert_close(whole, expected[0])
    torch.testing.assert_close(local, expected[1])
    assert torch.equal(encoder(features)[0], whole[:, 19:])
    assert torch.equal(encoder(features)[1], local[:, 19:])


def test_real_history_takes_the_place_of_the_copies(encoder, noise):
    features = noise(1, 25, 8, 96)
    whole, local = encoder.encode_padded(features[..., 73:89], history=features[..., :73])
    uncut = encoder.encode_padded(features[..., 1:89], history=features[..., :1].expand(-1, -1, -1, 73))
    torch.testing.assert_close(whole[:, 2:], uncut[0][:, 20:])  # two latents on, nothing of the copies is heard any more
    torch.testing.assert_close(local[:, 2:], uncut[1][:, 20:])
    copies = features[..., 73:74].expand(-1, -1, -1, 73)
    assert torch.equal(encoder(features[..., 73:89], history=copies)[0], encoder(features[..., 73:89])[0])


def test_real_history_is_heard_in_the_first_two_latents_of_a_clip_only(encoder, noise):
    features, history = noise(1, 25, 8, 24), noise(1, 25, 8, 73, seed=1)
    whole, local = encoder(features)
    whole_after, local_after = encoder(features, history=history)
    assert (whole_after != whole).any(-1)[0, :, 0].nonzero()[:, 0].tolist() == [0, 1]
    assert (local_after[:, :, :4] != local[:, :, :4]).any(-1).any(-1)[0].nonzero()[:, 0].tolist() == [0, 1]
    history[..., :68] = 0  # further back than the encoder reaches
    assert torch.equal(encoder(features, history=history)[0], whole_after)


def test_latent_k_hears_slots_4k_minus_5_to_4k_plus_3(encoder, noise):
    features = noise(1, 25, 8, 24)
    whole, local = encoder(features)
    for slot in range(24):
        other = features.clone()
        other[..., slot] += 1
        whole_after, local_after = encoder(other)
        expected = [latent for latent in range(6) if 4 * latent - 5 <= slot <= 4 * latent + 3]
        assert (whole_after != whole).any(-1)[0, :, 0].nonzero()[:, 0].tolist() == expected
        assert (local_after[:, :, :4] != local[:, :, :4]).any(-1).any(-1)[0].nonzero()[:, 0].tolist() == expected


def test_fifth_local_token_is_the_learned_one(encoder, noise):
    _, local = encoder(noise(1, 25, 8, 8))
    assert torch.equal(local[0, :, 4], encoder.encoder.padding_tokens[0, 0].expand(2, -1))


def test_local_tokens_are_four_heads_of_the_first_convolution(encoder, noise):
    inner, x = encoder.encoder, noise(1, 8, 8)
    _, local = inner(x)
    first = inner.conv1_local(x)  # [1, 8, 4 * 64], heads one after the other
    for head in range(4):
        h = F.silu(plain_norm(first[..., 64 * head : 64 * (head + 1)], 1e-6))
        h = F.silu(plain_norm(inner.conv2(h), 1e-6))
        h = F.silu(plain_norm(inner.conv3(h), 1e-6))
        torch.testing.assert_close(local[:, :, head], h, atol=1e-5, rtol=1e-5)


def test_global_token_passes_the_same_convolutions_and_a_linear_layer(encoder, noise):
    inner, x = encoder.encoder, noise(1, 8, 8)
    h = F.silu(plain_norm(inner.conv1_global(x), 1e-6))
    h = F.silu(plain_norm(inner.conv2(h), 1e-6))
    h = inner.final_linear(F.silu(plain_norm(inner.conv3(h), 1e-6)))
    torch.testing.assert_close(inner(x)[0][:, :, 0], h, atol=1e-5, rtol=1e-5)


def test_encoder_computes_in_float32(tiny_config, randomised, noise):
    layer = randomised(CausalAudioEncoder(tiny_config, operations=nn)).bfloat16()
    features = noise(1, 25, 8, 8, dtype=torch.bfloat16)
    whole, local = layer(features)
    assert whole.dtype == local.dtype == torch.float32
    assert torch.equal(whole, layer(features.float())[0])


@pytest.mark.parametrize("stride", [1, 2])
def test_causal_convolution_repeats_its_first_sample(randomised, noise, stride):
    conv = randomised(CausalConv(3, 5, stride, operations=nn))
    x = noise(1, 7, 3)
    padded = torch.cat([x[:, :1], x[:, :1], x], dim=1)
    expected = [torch.einsum("tc,oct->o", padded[0, t : t + 3], conv.conv.weight) + conv.conv.bias for t in range(0, 7, stride)]
    torch.testing.assert_close(conv(x)[0], torch.stack(expected), atol=1e-5, rtol=1e-5)


# Injection


def test_sound_shifts_by_the_first_half_and_scales_by_the_second(tiny_config, randomised, noise):
    layer = randomised(AdaLayerNorm(tiny_config, operations=nn))
    audio = noise(1, 2, 1, 256, seed=1)
    halves = (F.silu(audio) @ layer.linear.weight.T + layer.linear.bias).split(256, dim=-1)
    for ours, expected in zip(layer.project(audio, torch.float32), halves, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def inject(injector, x, block, audio, split, dtype=torch.float32, **options):
    return injector(Residual(x, split), block, [Voice(injector.project(*audio, dtype))], Compute(**options)).summed()


@pytest.fixture
def audio(noise):
    return noise(2, 3, 1, 256, seed=8), noise(2, 3, 5, 256, seed=9)


@pytest.mark.parametrize("size", [1, 3e-3])  # where tokens are small, the epsilon of this norm shows
@pytest.mark.parametrize(("block", "index"), [(0, 0), (2, 1)])
def test_each_frame_attends_to_its_own_audio(injector, audio, noise, block, index, size):
    x = size * noise(2, 3 * 4 + 5, 256)
    result = inject(injector, x, block, audio, 12)
    whole, local = audio
    for batch in range(2):
        for frame in range(3):
            attention = injector.injector[index]
            tokens = x[batch, 4 * frame : 4 * frame + 4][None]
            shift, scale = injector.injector_adain_layers[index].project(whole[batch, frame][None, None], torch.float32)
            query = plain_norm(tokens, 1e-5) * (1 + scale[:, 0]) + shift[:, 0]
            expected = tokens + attention(query, attention.project(local[batch, frame][None]), Compute())
            torch.testing.assert_close(result[batch, 4 * frame : 4 * frame + 4], expected[0], atol=1e-5, rtol=1e-5)


def test_reference_and_motion_tokens_get_no_audio(injector, audio, noise):
    x = noise(2, 17, 256)
    result = inject(injector, x, 0, audio, 12)
    assert torch.equal(result[:, 12:], x[:, 12:])
    assert (result[:, :12] != x[:, :12]).any(-1).all()


@pytest.mark.parametrize("block", [1, 3, 20, 30])
def test_other_blocks_are_passed_by(injector, audio, noise, block):
    x = noise(2, 17, 256)
    assert torch.equal(inject(injector, x, block, audio, 12), x)


def test_injection_computes_in_the_given_dtype_and_keeps_that_of_the_stream(tiny_config, randomised, audio, noise):
    layer, dtypes = randomised(AudioInjector(tiny_config, operations=nn)).bfloat16(), []

    def kernel(q, k, v, heads, **_):
        dtypes.append({q.dtype, k.dtype, v.dtype})
        return sdpa(q, k, v, heads)

    result = inject(layer, noise(2, 17, 256), 0, audio, 12, dtype=torch.bfloat16, attention=kernel)
    assert result.dtype == torch.float32
    assert dtypes == [{torch.bfloat16}]
