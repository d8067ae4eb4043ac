"""The residual stream: sums that wait for the next norm, and what may be overwritten."""

import weakref

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels.fused import add_gated, modulated_norm
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Residual

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
    stream = Residual(x, SPLIT, is_own)
    stream.add(y, gate)
    assert torch.equal(stream.x, before)
    normed = stream.norm(shift, scale, EPS, torch.float32)
    assert torch.equal(normed, modulated_norm(total, shift, scale, SPLIT, EPS, torch.float32))
    assert torch.equal(stream.summed(), total)
    assert (stream.x is x) is is_own
    assert is_own or torch.equal(x, before)


def test_norm_without_a_sum_changes_nothing(parts):
    x, _, _, shift, scale = parts
    stream = Residual(x, SPLIT)
    normed = stream.norm(shift, scale, EPS, torch.bfloat16, one=0.0)
    assert stream.summed() is x
    assert torch.equal(normed, modulated_norm(x, shift, scale, SPLIT, EPS, torch.bfloat16, 0.0))


def test_two_sums_in_a_row(parts):
    x, y, gate, *_ = parts
    before, stream = x.clone(), Residual(x, SPLIT)
    stream.add(y, gate)
    stream.add(y)
    assert torch.equal(stream.summed(), stream.summed())
    torch.testing.assert_close(stream.summed(), add_gated(x, y, gate, SPLIT) + y)
    assert torch.equal(x, before)


def test_what_is_part_of_the_sum_is_not_kept(parts):
    x, y, gate, shift, scale = parts
    stream, waiting = Residual(x, SPLIT), weakref.ref(copy := y.clone())
    stream.add(copy, gate)
    del copy
    assert waiting() is not None
    stream.norm(shift, scale, EPS, torch.float32)
    assert waiting() is None


@pytest.mark.parametrize("waits", [False, True])
def test_first_tokens(parts, waits):
    x, y, gate, *_ = parts
    whole, part = Residual(x, SPLIT), Residual(x, SPLIT)
    for stream in (whole, part):
        if waits:
            stream.add(y, gate)
    part.keep_first(SPLIT)
    assert torch.equal(part.summed(), whole.summed()[:, :SPLIT])


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_what_others_hold_is_never_overwritten(parts, is_own, waits):
    x, y, *_ = parts
    before, stream = x.clone(), Residual(x, SPLIT, is_own)
    if waits:
        stream.add(y)
    stream.owned().zero_()
    assert not stream.summed().any()
    assert is_own or torch.equal(x, before)


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize("waits", ["nothing", "sum", "gated sum"])
@pytest.mark.parametrize("length", [SPLIT, LENGTH])
def test_norm_of_each_frame_of_the_video(parts, noise, waits, is_own, length):
    x, y, gate, *_ = parts
    x, y = x[:, :length].contiguous(), y[:, :length]
    gate = gate if waits == "gated sum" else None
    shift, scale = noise(2, 4, DIM, seed=5), noise(2, 4, DIM, seed=6)  # of 4 frames with 2 tokens each
    total = x if waits == "nothing" else add_gated(x, y, gate, SPLIT)
    expected = modulated_norm(total[:, :SPLIT], shift, scale, 2, EPS, torch.float32)
    before, stream = x.clone(), Residual(x, SPLIT, is_own)
    if waits != "nothing":
        stream.add(y, gate)
    torch.testing.assert_close(stream.norm_video(shift, scale, EPS, torch.float32), expected)
    torch.testing.assert_close(stream.summed(), total)
    assert is_own or torch.equal(x, before)
