"""The residual stream: sums that wait for the next norm, and what may be overwritten."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.fused import add_gated, modulated_norm
from wan_s2v_pack.wan_s2v_model.residual import Residual

EPS, LENGTH, SPLIT, DIM = 1e-6, 12, 8, 24


@pytest.fixture
def parts(noise):
    """x, y, gate, shift and scale."""
    rows = (noise(2, 2, DIM, seed=seed) for seed in (2, 3, 4))
    return noise(2, LENGTH, DIM), noise(2, LENGTH, DIM, seed=1), *rows


@pytest.mark.parametrize("is_own", [False, True])
def test_waiting_sum_is_made_with_the_next_norm(parts, is_own):
    x, y, gate, shift, scale = parts
    total = add_gated(x, y, gate, SPLIT)
    before = x.clone()
    stream, normed = Residual(x, SPLIT, is_own=is_own).plus(y, gate).norm(shift, scale, EPS, torch.float32)
    assert torch.equal(normed, modulated_norm(total, shift, scale, SPLIT, EPS, torch.float32))
    assert torch.equal(stream.summed(), total)
    assert stream.is_own
    assert (stream.x is x) is is_own
    assert is_own or torch.equal(x, before)


def test_norm_without_a_sum_changes_nothing(parts):
    x, _, _, shift, scale = parts
    stream = Residual(x, SPLIT)
    after, normed = stream.norm(shift, scale, EPS, torch.bfloat16, one=0.0)
    assert after is stream
    assert torch.equal(normed, modulated_norm(x, shift, scale, SPLIT, EPS, torch.bfloat16, 0.0))


def test_two_sums_in_a_row(parts):
    x, y, gate, *_ = parts
    before = x.clone()
    total = Residual(x, SPLIT).plus(y, gate).plus(y).summed()
    torch.testing.assert_close(total, add_gated(x, y, gate, SPLIT) + y)
    assert torch.equal(x, before)


@pytest.mark.parametrize("waits", [False, True])
def test_first_tokens(parts, waits):
    x, y, gate, *_ = parts
    stream = Residual(x, SPLIT).plus(y, gate) if waits else Residual(x, SPLIT)
    assert torch.equal(stream.first(SPLIT).summed(), stream.summed()[:, :SPLIT])


@pytest.mark.parametrize("is_own", [False, True])
def test_what_others_hold_is_copied_before_it_is_overwritten(parts, is_own):
    x, y, *_ = parts
    assert (Residual(x, SPLIT, is_own=is_own).owned().data_ptr() == x.data_ptr()) is is_own
    before = x.clone()
    Residual(x, SPLIT).plus(y).owned().zero_()
    assert torch.equal(x, before)
