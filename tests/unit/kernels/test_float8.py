"""Float8 rows and heads, in torch and in Triton (run by Triton's interpreter), and the error that they bring."""

from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels import float8, fused, linears
from wan_s2v_pack.wan_s2v_model.kernels.float8 import (
    FLOAT8,
    FLOAT8_MAX,
    HEADROOM,
    MEAN_STRIDE,
    PEAK_STRIDE,
    Float8Heads,
    Float8Rows,
    quantise_heads,
)
from wan_s2v_pack.wan_s2v_model.kernels.fused import add_then_norm, apply_rope, modulated_norm, rms_norm_rope_float8
from wan_s2v_pack.wan_s2v_model.kernels.linears import product, quantise_rows
from wan_s2v_pack.wan_s2v_model.transformer.blocks import OVERRIDE, Attention, Compute, sdpa

EPS = 1e-6
LENGTH, DIM, HEADS = 70, 96, 3  # a tile of 64 tokens and a part of one
HALF_STEP = 2**-4  # largest relative rounding error of float8_e4m3fn


@pytest.fixture(params=["torch", "triton", "triton, rows in chunks"])
def implementation(request, monkeypatch):
    if request.param != "torch":
        pytest.importorskip("triton")
        for module in (float8, fused, linears):
            monkeypatch.setattr(module, "kernels_work", lambda device: True)
    if request.param.endswith("chunks"):
        monkeypatch.setattr("wan_s2v_pack.wan_s2v_model.kernels.triton_blocks.CHUNK", 64)
    return request.param.partition(",")[0]


def assert_rounded(values, exact, implementation):
    """Every value is the float8 nearest to the exact one.

    Triton's interpreter rounds ties and the smallest values otherwise, so it may be a step off, and it loses the carry where rounding goes
    up to a power of two: there it gives half of it. A GPU does neither.
    """
    assert values.dtype == FLOAT8
    nearest = exact.clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8).float()
    off = (values.float() - nearest).abs()
    if implementation == "triton":
        lost_carry = (torch.frexp(nearest.abs())[0] == 0.5) & (values.float() * 2 == nearest)
        off = torch.where(lost_carry, 0, (off - torch.clamp(2 * HALF_STEP * nearest.abs(), min=2**-9)).clamp(min=0))
    assert int((off > 0).sum()) <= 1e-3 * off.numel()  # ties, where float32 and float64 may disagree


def loud(noise, *shape, seed=0):
    """Noise with rows of very different size."""
    return noise(*shape, seed=seed) * torch.logspace(-4, 3, shape[-2])[:, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
def test_rows_use_the_whole_range_of_float8(implementation, noise, dtype, gelu):
    x = loud(noise, 2, LENGTH, DIM).to(dtype)
    exact = torch.nn.functional.gelu(x.double(), approximate="tanh") if gelu else x.double()
    rows = quantise_rows(x, gelu)
    scale = exact.abs().amax(-1, keepdim=True) / FLOAT8_MAX
    torch.testing.assert_close(rows.scale.double(), scale, rtol=1e-4 if gelu else 1e-6, atol=0)
    assert_rounded(rows.values, (exact / rows.scale).float(), implementation)


def test_torch_rounds_many_rows_piece_by_piece(noise, monkeypatch):
    x = loud(noise, 2, 9, DIM)
    whole = Float8Rows.rounded(x, gelu=True)
    monkeypatch.setattr(float8, "ROUNDED_ROWS", 5)
    pieces = Float8Rows.rounded(x, gelu=True)
    assert torch.equal(pieces.values.float(), whole.values.float())
    assert torch.equal(pieces.scale, whole.scale)


def test_row_of_zeros_stays_zero(implementation):
    rows = quantise_rows(torch.zeros(2, 3, DIM))
    assert torch.equal(rows.to(torch.float32), torch.zeros(2, 3, DIM))


def test_rows_go_into_a_part_of_given_memory(implementation, noise):
    x, out = noise(LENGTH, DIM), Float8Rows.empty((LENGTH, DIM), torch.device("cpu"))
    quantise_rows(x[:40], out=out[:40])
    quantise_rows(x[40:], out=out[40:])
    whole = quantise_rows(x)
    assert torch.equal(out.values.float(), whole.values.float())
    assert torch.equal(out.scale, whole.scale)


def test_rows_slice_and_reshape_like_tensors(noise):
    rows = quantise_rows(loud(noise, 2, 12, DIM))
    whole = rows.to(torch.float32)
    assert rows.shape == whole.shape
    assert torch.equal(rows[:, :5].to(torch.float32), whole[:, :5])
    assert torch.equal(rows.unflatten(1, (3, -1)).flatten(0, 1).to(torch.float32), whole.unflatten(1, (3, -1)).flatten(0, 1))


def test_norms_hand_over_float8_rounded_once(implementation, noise):
    x, y, gate, scale, shift = (noise(2, n, DIM, seed=n) for n in (12, 12, 2, 2, 2))
    x[:, 3] *= 1e3
    normed = modulated_norm(x, shift, scale, 5, EPS, FLOAT8)
    exact = modulated_norm(x, shift, scale, 5, EPS, torch.float32)
    assert_rounded(normed.values, exact / normed.scale, implementation)
    total, summed = add_then_norm(x, y, gate, (shift, scale, 1.0), 5, EPS, dtype=FLOAT8)
    exact_total, exact = add_then_norm(x, y, gate, (shift, scale, 1.0), 5, EPS)
    assert torch.equal(total, exact_total)
    assert_rounded(summed.values, exact / summed.scale, implementation)


@pytest.mark.parametrize("smooth", [False, True])
def test_heads_have_a_scale_each(implementation, noise, smooth):
    size = torch.logspace(-3, 3, HEADS).repeat_interleave(DIM // HEADS)
    x = (noise(2, LENGTH, DIM) + 5) * size
    heads = quantise_heads(x, HEADS, smooth)
    mean = x[:, ::MEAN_STRIDE].double().mean(dim=1, keepdim=True)
    centred = (x.double() - mean * smooth).unflatten(-1, (HEADS, -1))
    peak = centred[:, ::PEAK_STRIDE].abs().amax(dim=(1, 3))
    torch.testing.assert_close(heads.scale.double(), HEADROOM * peak / FLOAT8_MAX, rtol=1e-5, atol=0)
    assert_rounded(heads.values, (centred / heads.scale[:, None, :, None]).float(), implementation)


@pytest.mark.parametrize("smooth", [False, True])
def test_normed_and_rotated_heads(implementation, noise, smooth):
    """The bound of a scale is reached where one channel holds the whole row."""
    x, size = noise(2, LENGTH, DIM) + 1, torch.logspace(-2, 2, HEADS).repeat_interleave(DIM // HEADS)
    weight, angle = size * (1 + noise(DIM, seed=1) / 8), noise(LENGTH, DIM // HEADS // 2, seed=2)
    loudest = int(weight[: DIM // HEADS].abs().argmax())
    x[0, 1], angle[1] = 0, 0
    x[0, 1, loudest] = -1
    rope = angle.cos(), angle.sin()
    normed = x.double() / (x.double().square().mean(-1, keepdim=True) + EPS).sqrt() * weight
    exact = apply_rope(normed.float().unflatten(-1, (HEADS, -1)), *rope)
    exact = exact - exact[:, ::MEAN_STRIDE].mean(dim=1, keepdim=True) * smooth
    heads = rms_norm_rope_float8(x.clone(), weight, EPS, rope, HEADS, smooth)
    bound = DIM**0.5 * weight.abs().unflatten(0, (HEADS, -1)).amax(-1)
    torch.testing.assert_close(heads.scale, ((1 + smooth) * bound / FLOAT8_MAX).repeat(2, 1))
    assert_rounded(heads.values, exact / heads.scale[:, None, :, None], implementation)
    assert smooth or float(heads.values[0, 1, 0].float().min()) == -FLOAT8_MAX


def test_attention_gets_queries_and_keys_in_float8_where_it_takes_them(noise):
    """Only in self attention, only beyond its number of keys, and not where another node looks at them."""
    config = SimpleNamespace(num_heads=HEADS, eps=EPS, dim=DIM)
    layer, x = Attention(config, operations=torch.nn), noise(1, LENGTH, DIM)
    angle = noise(LENGTH, DIM // HEADS // 2)
    rope, seen = (angle.cos(), angle.sin()), []

    def kernel(q, k, v, heads, **_):
        seen.append((type(q), type(k), type(v)))
        q, k = (t.to(torch.float32).flatten(2) if isinstance(t, Float8Heads) else t for t in (q, k))
        return sdpa(q, k, v, heads)

    def attend(**options):
        return layer.self_attention(lambda: x, rope, Compute(attention=kernel, **options)).detach()

    exact = attend()
    kernel.float8_beyond = LENGTH
    attend()
    kernel.float8_beyond = LENGTH - 1
    attend(transformer_options={OVERRIDE: None})
    layer(x, layer.project(x), Compute(attention=kernel))
    assert seen == [(torch.Tensor,) * 3] * 4
    rounded = attend()
    assert seen[-1] == (Float8Heads, Float8Heads, torch.Tensor)
    assert 0 < relative_error(rounded, exact.double()) < 0.1


@pytest.mark.parametrize(("gain", "is_kept"), [(0.9 * HEADROOM, True), (1.5 * HEADROOM, False)])
def test_tokens_outside_of_the_sample_have_headroom_and_then_saturate(implementation, noise, gain, is_kept):
    x = noise(1, LENGTH, DIM).clamp(-1, 1)
    x[0, 0, :: DIM // HEADS], x[0, 1] = 1, gain
    restored = quantise_heads(x, HEADS).to(torch.float32)[0, 1]
    expected = gain if is_kept else HEADROOM
    torch.testing.assert_close(restored, torch.full_like(restored, expected), rtol=HALF_STEP, atol=0)


def test_product_is_that_of_the_rounded_values(noise):
    x, weight, bias = quantise_rows(loud(noise, 2, 5, 64)), quantise_rows(loud(noise, 48, 64, seed=1)), noise(48, seed=2)
    expected = x.to(torch.float64) @ weight.to(torch.float64).T + bias.double()
    torch.testing.assert_close(product(x, weight, bias, torch.float32).double(), expected, rtol=1e-4, atol=1e-4)
    assert product(x, weight, None, torch.bfloat16).dtype == torch.bfloat16


def relative_error(ours, exact):
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("loud_channels", "largest_error"), [(0, 0.045), (4, 0.045)])
def test_error_of_a_product(noise, loud_channels, largest_error):
    """Loud channels cost nothing in float8 as long as the others stay above its smallest steps: 100 against 448 / 2^-6."""
    x, weight = noise(256, 512), noise(128, 512, seed=1) / 512**0.5
    x[:, :loud_channels] *= 100
    error = relative_error(product(quantise_rows(x), quantise_rows(weight), None, torch.float32), x.double() @ weight.double().T)
    assert 0.01 < error < largest_error


def attend(q, k, v):
    weights = torch.einsum("bshd,blhd->bhsl", q.double(), k.double()) / q.shape[-1] ** 0.5
    return weights.softmax(dim=-1), torch.einsum("bhsl,blhd->bshd", weights.softmax(dim=-1), v.double())


def in_float8(x, smooth=False):
    return quantise_heads(x.flatten(2), x.shape[2], smooth).to(torch.float64)


def float8_attention(q, k, v, smooth):
    """What a float8 kernel computes: weights over the largest of their row, in float8, times values in float8."""
    weights, _ = attend(in_float8(q), in_float8(k, smooth), v)
    weights = (weights / weights.amax(-1, keepdim=True) * 256).float().to(FLOAT8).double()
    return torch.einsum("bhsl,blhd->bshd", weights / weights.sum(-1, keepdim=True), in_float8(v))


def test_error_of_attention(noise):
    q, k, v = (noise(1, 512, 2, 64, seed=seed) for seed in range(3))
    assert 0.02 < relative_error(float8_attention(q, k, v, smooth=True), attend(q, k, v)[1]) < 0.07


def test_smoothing_helps_keys_that_lie_away_from_zero(noise):
    q, k, v = (noise(1, 512, 2, 64, seed=seed) for seed in range(3))
    k = k + 8 * noise(64, seed=3)
    plain, smooth = (relative_error(float8_attention(q, k, v, smooth), attend(q, k, v)[1]) for smooth in (False, True))
    assert smooth < 0.07
    assert plain > 3 * smooth
