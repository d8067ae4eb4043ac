"""The measured product."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.cost import product
from wan_s2v_pack.wan_s2v_model.cost.product import NUM_PRODUCTS, measure_product, product_bytes


def test_rate_is_operations_over_time(monkeypatch):
    ticks = iter([0, 7, 10, 12])  # the first product, which may have to load something, does not count
    monkeypatch.setattr(product.time, "perf_counter", lambda: next(ticks))
    assert measure_product(torch.device("cpu"), torch.float32, 8) == NUM_PRODUCTS * 2 * 8**3 / 2


def test_rate_of_this_processor():
    assert 1e7 < measure_product(torch.device("cpu"), torch.float32, 64) < 1e14


@pytest.mark.parametrize(("dtype", "megabytes"), [(torch.bfloat16, 134), (torch.float32, 268)])
def test_memory(dtype, megabytes):
    assert round(product_bytes(dtype) / 1e6) == megabytes
