"""Norms, gates and rotations of the blocks, in torch and in Triton (run by Triton's interpreter), against plain float64 computations."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels import fused
from wan_s2v_pack.wan_s2v_model.kernels.fused import add_gated, add_then_norm, apply_rope, layer_norm, modulated_norm, rms_norm_rope

EPS = 1e-6
LENGTH, DIM, HEAD_DIM = 12, 24, 8
GROUPINGS = {"two segments": (2, 8), "one row per frame": (4, 3), "one row for all": (1, 12), "last group is longer": (2, 5)}
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


@pytest.fixture(params=["torch", "triton", "triton, rows in chunks"])
def implementation(request, monkeypatch):
    if request.param != "torch":
        pytest.importorskip("triton")
        monkeypatch.setattr(fused, "kernels_work", lambda device: True)
    if request.param.endswith("chunks"):
        monkeypatch.setattr("wan_s2v_pack.wan_s2v_model.kernels.triton_blocks.CHUNK", 16)
    return request.param.partition(",")[0]


@pytest.fixture(params=GROUPINGS, ids=lambda name: name.replace(" ", "_"))
def grouping(request):
    """Number of groups and tokens in each."""
    return GROUPINGS[request.param]


def plain_norm(x):
    x = x.double() - x.double().mean(dim=-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + EPS)


def by_token(rows, group_size):
    """[B, G, dim] -> [B, LENGTH, dim]."""
    return rows[:, [min(token // group_size, rows.shape[1] - 1) for token in range(LENGTH)]].double()


@pytest.fixture
def rows(noise, grouping):
    """Gate, scale and shift as views of one tensor, as the blocks have them."""
    return noise(2, 3, grouping[0], DIM, seed=5).unbind(1)


def test_layer_norm_has_no_weights_and_runs_in_float32(noise):
    x = 1e-3 * noise(2, 3, 16)
    torch.testing.assert_close(layer_norm(x, EPS).double(), plain_norm(x), **CLOSE)
    assert layer_norm(x.bfloat16(), EPS).dtype == torch.float32


@pytest.mark.parametrize("one", [0.0, 1.0])
def test_modulated_norm(implementation, noise, rows, grouping, one):
    x, (_, scale, shift), size = 3 + noise(2, LENGTH, DIM), rows, grouping[1]
    out = modulated_norm(x, shift, scale, size, EPS, torch.float32, one)
    torch.testing.assert_close(out.double(), plain_norm(x) * (one + by_token(scale, size)) + by_token(shift, size), **CLOSE)
    assert modulated_norm(x, shift, scale, size, EPS, torch.bfloat16, one).dtype == torch.bfloat16


def test_norm_of_a_part_of_the_sequence_leaves_the_rest_alone(implementation, noise):
    x, scale, shift = noise(2, LENGTH, DIM), noise(2, 2, DIM, seed=1), noise(2, 2, DIM, seed=2)
    before = x.clone()
    out = modulated_norm(x[:, :8], shift, scale, 4, EPS, torch.float32)
    assert out.shape == (2, 8, DIM)
    torch.testing.assert_close(out, modulated_norm(x[:, :8].contiguous(), shift, scale, 4, EPS, torch.float32))
    assert torch.equal(x, before)


def test_gated_sum_keeps_the_dtype_of_the_stream_and_its_inputs(implementation, noise, rows, grouping):
    x, y, (gate, _, _), size = noise(2, LENGTH, DIM), noise(2, LENGTH, DIM, seed=1, dtype=torch.bfloat16), rows, grouping[1]
    before = x.clone()
    out = add_gated(x, y, gate, size)
    assert out.dtype == torch.float32
    assert torch.equal(x, before)
    torch.testing.assert_close(out.double(), x.double() + by_token(gate, size) * y.double(), **CLOSE)


def test_sum_in_place_on_a_part_of_the_sequence(implementation, noise):
    x, y = noise(2, LENGTH, DIM), noise(2, 8, DIM, seed=1, dtype=torch.bfloat16)
    expected = x.clone()
    expected[:, :8] += y
    add_gated(x[:, :8], y, None, 8, out=x[:, :8])
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("in_place", [False, True])
def test_sum_and_its_norm_in_one(implementation, noise, rows, grouping, in_place):
    x, y, (gate, scale, shift), size = noise(2, LENGTH, DIM), noise(2, LENGTH, DIM, seed=1), rows, grouping[1]
    expected = x.double() + by_token(gate, size) * y.double()
    before = x.clone()
    total, normed = add_then_norm(x, y, gate, (shift, scale, 1.0), size, EPS, out=x if in_place else None)
    assert (total is x) if in_place else torch.equal(x, before)
    torch.testing.assert_close(total.double(), expected, **CLOSE)
    torch.testing.assert_close(normed.double(), plain_norm(expected) * (1 + by_token(scale, size)) + by_token(shift, size), **CLOSE)


def test_norm_with_a_row_per_frame_after_a_sum_with_one_gate(implementation, noise):
    x, y, gate = noise(2, LENGTH, DIM), noise(2, LENGTH, DIM, seed=1), noise(2, 1, DIM, seed=2)
    scale, shift = noise(2, 4, DIM, seed=3), noise(2, 4, DIM, seed=4)
    total, normed = add_then_norm(x, y, gate, (shift, scale, 1.0), 3, EPS)
    torch.testing.assert_close(total, x + gate * y)
    torch.testing.assert_close(normed.double(), plain_norm(total) * (1 + by_token(scale, 3)) + by_token(shift, 3), **CLOSE)


def test_norm_with_one_row_after_a_sum_with_two_gates(implementation, noise):
    x, y, gate = noise(2, LENGTH, DIM), noise(2, LENGTH, DIM, seed=1), noise(2, 2, DIM, seed=2)
    weight, bias = (noise(DIM, seed=seed).expand(2, 1, -1) for seed in (3, 4))
    total, normed = add_then_norm(x, y, gate, (bias, weight, 0.0), 8, EPS)
    torch.testing.assert_close(normed.double(), plain_norm(total) * weight.double() + bias.double(), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_rope", [False, True])
def test_rms_norm_runs_over_all_heads_and_rotates_neighbouring_channels(implementation, noise, dtype, with_rope):
    x, weight, angle = noise(2, LENGTH, DIM, dtype=dtype), 1 + noise(DIM, seed=1) / 8, noise(LENGTH, HEAD_DIM // 2, seed=2)
    expected = x.double() / torch.sqrt(x.double().square().mean(dim=-1, keepdim=True) + EPS) * weight.double()
    if with_rope:
        pairs = torch.view_as_complex(expected.unflatten(-1, (DIM // HEAD_DIM, -1, 2)).contiguous())
        turned = pairs * torch.polar(torch.ones_like(angle, dtype=torch.float64), angle.double())[:, None]
        expected = torch.view_as_real(turned).flatten(2)
    out = rms_norm_rope(x, weight, EPS, (angle.cos(), angle.sin()) if with_rope else None)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, **(CLOSE if dtype == torch.float32 else {"atol": 4e-2, "rtol": 1e-2}))


def test_rotation_is_a_complex_product_of_neighbouring_channels(noise):
    x = noise(2, 5, 3, 8)
    angle = noise(5, 4, seed=1)
    rotated = apply_rope(x, angle.cos(), angle.sin())
    expected = torch.view_as_real(torch.view_as_complex(x.reshape(2, 5, 3, 4, 2)) * torch.polar(torch.ones(5, 1, 4), angle[:, None]))
    torch.testing.assert_close(rotated, expected.flatten(3))


def test_rotation_keeps_dtype_and_input(noise):
    x = noise(1, 5, 2, 8, dtype=torch.bfloat16)
    before = x.clone()
    rotated = apply_rope(x, torch.zeros(5, 4), torch.ones(5, 4))
    assert rotated.dtype == torch.bfloat16
    assert torch.equal(x, before)
    assert torch.equal(rotated[..., 1::2], x[..., ::2])
    assert torch.equal(rotated[..., ::2], -x[..., 1::2])
