"""The figures by which attention kernels are judged."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.transformer.attention_check import FEW_KEYS, largest_difference, rounding_error
from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa

CPU = torch.device("cpu")


def one_head_wrong(q, k, v, heads):
    out = sdpa(q, k, v, heads)
    out[..., -128:] *= 1.5
    return out


def keys_not_centred(q, k, v, heads):
    """In steps that fit the largest key: where keys lie away from zero, they are too coarse."""
    step = k.abs().amax() / 32
    return sdpa(q, (k / step).round() * step, v, heads)


def test_exact_attention_differs_by_its_last_bits():
    assert largest_difference(sdpa, CPU) < 2e-2
    assert rounding_error(sdpa, CPU) < 1e-2


def test_few_keys_count_too():
    assert largest_difference(lambda q, k, v, heads: sdpa(q, k, v, heads) + 0.1 * (k.shape[1] == 5), CPU) > 0.09


def test_the_worst_head_counts():
    assert rounding_error(one_head_wrong, CPU) == pytest.approx(0.5, abs=0.02)


def test_keys_away_from_zero_show_coarse_steps():
    assert rounding_error(keys_not_centred, CPU) > 0.1


def test_kernels_that_round_get_enough_keys_to_be_used():
    seen = []
    rounding_error(lambda q, k, v, heads: seen.append(k.shape[1]) or sdpa(q, k, v, heads), CPU)
    assert min(seen) > FEW_KEYS
