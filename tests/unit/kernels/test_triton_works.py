"""Whether the Triton kernels are used: they are built, and agree with the torch code."""

import math

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels import triton_works


def test_kernels_are_not_tried_without_an_nvidia_gpu():
    assert not triton_works.kernels_work(torch.device("cpu"))


def triton_error(text):
    return pytest.importorskip("triton").errors.TritonError(text)


class FakeGpu:
    type = "cuda"


@pytest.mark.parametrize(
    ("outcome", "works", "message"),
    [
        (0.0, True, ""),
        (1e-3, False, "differ by 1.0e-03"),
        (math.nan, False, "differ by nan"),
        (RuntimeError("no C compiler\nmore"), False, "cannot be built here (no C compiler)"),
        (triton_error("too old a GPU"), False, "cannot be built here (too old a GPU)"),
    ],
)
def test_kernels_that_fail_or_disagree_are_not_used_and_the_log_says_so(monkeypatch, caplog, outcome, works, message):
    def disagreement(device):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(triton_works, "_disagreement", disagreement)
    assert triton_works.kernels_work(FakeGpu()) is works
    assert message in caplog.text


def test_self_test_compares_kernels_and_torch_code():
    pytest.importorskip("triton")
    assert triton_works._disagreement(torch.device("cpu")) <= triton_works.AGREEMENT


@pytest.mark.parametrize(
    ("works", "capability", "are_of_use"), [(True, (7, 5), False), (True, (8, 0), True), (True, (12, 0), True), (False, (9, 0), False)]
)
def test_matrix_products_in_triton_need_its_tensor_cores(monkeypatch, works, capability, are_of_use):
    monkeypatch.setattr(triton_works, "kernels_work", lambda device: works)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert triton_works.products_work(FakeGpu()) is are_of_use
