"""Products of float8 values in every way, and which way is taken: torch's product for GPUs is emulated, right, wrong and missing."""

import logging

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels import linears, products
from wan_s2v_pack.wan_s2v_model.kernels.float8 import FLOAT8, Float8Rows
from wan_s2v_pack.wan_s2v_model.kernels.products import BEHIND, INSIDE, ON_HOST, WAYS, in_float32, multiply, way_of

CPU = torch.device("cpu")
SHAPES = ((35, 64, 48), (18, 96, 64))
BFLOAT16 = 2**-8  # its largest rounding error


class FakeGpu:
    """Counts as a GPU for the choice; its tensors lie on the CPU."""

    type = "cuda"


def scaled_mm(values, matrix, *, scale_a, scale_b, bias=None, out_dtype, use_fast_accum):
    """What torch computes on a GPU: sums in float32, rounded once."""
    assert values.dtype == matrix.dtype == FLOAT8
    assert len(values) % 2 == 0
    out = (values.float() @ matrix.float()) * scale_a * scale_b
    return (out if bias is None else out + bias.float()).to(out_dtype)


def refuses_rows(*matrices, scale_a, **options):
    """As cuBLAS on compute capability 12.0, and as PyTorch for Windows."""
    if scale_a.numel() > 1:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`\nmore")
    return scaled_mm(*matrices, scale_a=scale_a, **options)


def forgets_rows(*matrices, scale_a, scale_b, **options):
    return scaled_mm(*matrices, scale_a=scale_a.flatten()[0], scale_b=scale_b, **options)


def wrong_in_the_last_rows(*matrices, **options):
    out = scaled_mm(*matrices, **options)
    if len(out) > 20:
        out[-1] = out[-2] = 0
    return out


def refuses(*_, **__):
    raise RuntimeError("no kernel image is available")


def forgets_all(*matrices, **options):
    return torch.zeros_like(scaled_mm(*matrices, **options))


@pytest.fixture
def gpu(monkeypatch):
    """A device whose product is the given function."""

    def make(product):
        monkeypatch.setattr(torch, "_scaled_mm", product)
        monkeypatch.setattr(products, "REAL_SHAPES", SHAPES)
        tested = products._largest_error
        monkeypatch.setattr(products, "_largest_error", lambda way, device: tested(way, CPU))
        return FakeGpu()

    return make


@pytest.fixture(params=["torch", "triton"])
def implementation(request, monkeypatch):
    if request.param == "triton":
        pytest.importorskip("triton")
        monkeypatch.setattr(products, "kernels_work", lambda device: True)


def float8_rows(noise, count, dim, seed=0):
    return Float8Rows.rounded(noise(count, dim, seed=seed) * torch.logspace(-4, 3, count)[:, None])


@pytest.mark.parametrize(
    ("product", "chosen", "said"),
    [
        (scaled_mm, INSIDE, ""),
        (refuses_rows, BEHIND, "scales inside the product: do not run here (CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"),
        (forgets_rows, BEHIND, "scales inside the product: wrong by"),
        (wrong_in_the_last_rows, "", "scales behind the product: wrong by 1.0e+00"),
        (torch._scaled_mm, BEHIND, "scales inside the product: do not run here"),  # torch's own for the CPU has no rows either
        (refuses, "", "scales behind the product: do not run here (no kernel image is available)"),
        (forgets_all, "", "wrong by 1.0e+00"),
    ],
)
def test_the_way_that_works_is_taken_and_the_log_says_why(gpu, caplog, product, chosen, said):
    device = gpu(product)
    with caplog.at_level(logging.INFO, "wan_s2v"):
        assert way_of(device) == chosen
        assert way_of(device) == chosen, "the choice of a device is kept"
    assert said in caplog.text
    assert caplog.text.count("scales inside the product: ") == bool(said)
    assert (f"fp8 products: scales {chosen} the product" in caplog.text) == bool(chosen)


def test_memory_that_is_short_decides_nothing(gpu, caplog):
    """The next call asks again: whether a kernel works does not depend on what else lies on the GPU now."""

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    device = gpu(full)
    with pytest.raises(torch.OutOfMemoryError):
        way_of(device)
    assert caplog.text == ""
    gpu(scaled_mm)
    assert way_of(device) == INSIDE


def test_without_a_gpu_nothing_is_tested(monkeypatch):
    monkeypatch.setattr(products, "_largest_error", lambda *_: pytest.fail("tested"))
    assert way_of(CPU) == ON_HOST


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("count", [4, 5])
@pytest.mark.parametrize(("way", "roundings"), [(INSIDE, 1), (BEHIND, 3)])
def test_every_way_gives_the_same_product(implementation, noise, monkeypatch, way, roundings, count, dtype, with_bias):
    rows, weight, bias = float8_rows(noise, count, 64), float8_rows(noise, 48, 64, seed=1), noise(48, seed=2) if with_bias else None
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    monkeypatch.setattr(products, "way_of", lambda device: way)
    before = rows.values.float().clone(), rows.scale.clone()
    out = multiply(rows, weight, None if bias is None else bias.bfloat16(), dtype)
    exact = in_float32(rows, weight, None if bias is None else bias.bfloat16(), torch.float32)
    assert (out.dtype, out.shape) == (dtype, (count, 48))
    size = exact.abs() if bias is None else exact.abs() + bias.bfloat16().float().abs()
    assert ((out.float() - exact).abs() <= roundings * BFLOAT16 * 1.01 * size + 1e-6).all()
    assert torch.equal(rows.values.float(), before[0])
    assert torch.equal(rows.scale, before[1])


def test_scales_behind_the_product_cost_little_of_its_precision(implementation, noise, monkeypatch):
    """What is lost beside rounding to float8 itself, which is 3.75 %."""
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    x, weight, bias = noise(256, 512), noise(128, 512, seed=1) / 512**0.5, noise(128, seed=2).bfloat16()
    exact = x.double() @ weight.double().T + bias.double()
    rows, columns = Float8Rows.rounded(x), Float8Rows.rounded(weight)
    errors = [float((WAYS[way](rows, columns, bias, torch.bfloat16).double() - exact).norm() / exact.norm()) for way in (INSIDE, BEHIND)]
    assert 0.01 < errors[0] < 0.04
    assert errors[1] < 1.01 * errors[0]


def test_linear_layers_take_the_way_of_the_device(noise, monkeypatch):
    seen = []
    monkeypatch.setattr(products, "way_of", lambda device: BEHIND)
    monkeypatch.setitem(WAYS, BEHIND, lambda *arguments: seen.append(BEHIND) or in_float32(*arguments))
    linears.product(Float8Rows.rounded(noise(2, 3, 32)), Float8Rows.rounded(noise(48, 32)), None, torch.float32)
    assert seen == [BEHIND]


@pytest.mark.parametrize("way", [ON_HOST, BEHIND])
def test_products_compile_without_their_self_test(noise, monkeypatch, way):
    monkeypatch.setattr(products, "way_of", torch.compiler.assume_constant_result(lambda device: way))
    monkeypatch.setattr(products, "_largest_error", lambda *_: pytest.fail("tested"))
    arguments = float8_rows(noise, 6, 64), float8_rows(noise, 48, 64, seed=1), noise(48, seed=2).bfloat16(), torch.bfloat16
    torch.compiler.reset()
    assert torch.equal(torch.compile(multiply, backend="eager", fullgraph=True)(*arguments), multiply(*arguments))
    torch.compiler.reset()
