"""UniPC and DPM++ against their published formulas in float64 and against equations whose solution is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.sampling.schedule import build_schedule
from wan_s2v_pack.wan_s2v_model.sampling.solvers import SOLVERS, sample_dpmpp, sample_unipc

SPREAD = 0.7  # standard deviation of the data of the solvable model


def gaussian_x0(x, sigma):
    """Best x0 for data of a normal distribution; the flow then only scales x."""
    return x * (1 - sigma) * SPREAD**2 / gaussian_scale(sigma) ** 2


def gaussian_scale(sigma):
    return ((1 - sigma) ** 2 * SPREAD**2 + sigma**2) ** 0.5


def bent_x0(x, sigma):
    """A model without structure, to compare two implementations of a solver."""
    return np.tanh(1.3 * x + 0.4) * (1 - 0.5 * sigma) + 0.2 * np.sin(7 * sigma)


class Model:
    """A denoiser with the call signature of ComfyUI's, which records how it was called."""

    def __init__(self, x0=gaussian_x0):
        self.x0, self.calls = x0, []

    def __call__(self, x, sigma, **extra_args):
        self.calls.append((x.clone(), sigma.clone(), extra_args))
        level = float(sigma[0])
        return torch.from_numpy(np.asarray(self.x0(x.double().numpy(), level))).float()


def grid(steps, start=0.95, end=0.05):
    return torch.linspace(start, end, steps + 1)


def log_snr(sigma):
    return math.log((1 - sigma) / sigma) if sigma > 0 else math.inf


def dpmpp_2m(model, x, sigmas):
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), first and last step of order 1."""
    old = None
    steps = len(sigmas) - 1
    for i in range(steps):
        now, after = sigmas[i], sigmas[i + 1]
        x0 = model(x, now)
        d, h = x0, log_snr(after) - log_snr(now)
        if 0 < i < steps - 1:
            r = (log_snr(now) - log_snr(sigmas[i - 1])) / h
            d = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * old
        x = after / now * x - (1 - after) * (math.exp(-h) - 1) * d
        old = x0
    return x


def uni_update(x, x0s, levels, order, corrected):
    """One step of UniP or UniC with B(h) = exp(-h) - 1 (Zhao et al. 2023, equations 3 and 9), by solving its linear system.

    x0s and levels are oldest first; levels[-1] is the target, and the last x0 is that at the target when `corrected`.
    """
    now, target = levels[-2], levels[-1]
    h = log_snr(target) - log_snr(now)
    known = x0s[:-1] if corrected else x0s
    rs = [(log_snr(levels[-2 - k]) - log_snr(now)) / h for k in range(1, order)]
    differences = [(known[-1 - k] - known[-1]) / rs[k - 1] for k in range(1, order)]
    if corrected:
        rs, differences = [*rs, 1.0], [*differences, x0s[-1] - known[-1]]
    b_h = math.expm1(-h)
    phi, rhs = math.expm1(-h) / -h - 1, []
    for k in range(1, len(rs) + 1):
        rhs.append(phi * math.factorial(k) / b_h)
        phi = phi / -h - 1 / math.factorial(k + 1)
    powers = np.array([[r**k for r in rs] for k in range(len(rs))])
    weights = np.linalg.solve(powers, np.array(rhs)) if len(rs) > 1 else [0.5] * len(rs)  # the authors' choice for one unknown
    base = target / now * x - (1 - target) * math.expm1(-h) * known[-1]
    return base - (1 - target) * b_h * sum((w * d for w, d in zip(weights, differences, strict=True)), np.zeros_like(x))


def unipc_2(model, x, sigmas):
    """UniPC of order 2: correct with the new prediction, then predict; the prediction is not made again."""
    steps = len(sigmas) - 1
    x0s, before, order = [], None, 1
    for i in range(steps):
        x0s.append(model(x, sigmas[i]))
        if i > 0:
            x = uni_update(before, x0s, sigmas[: i + 1], order, corrected=True)
        before = x
        order = 1 if i in (0, steps - 1) else 2
        if i == steps - 1 and sigmas[-1] == 0:
            return x0s[-1]
        x = uni_update(x, x0s, sigmas[: i + 2], order, corrected=False)
    return x


FORMULAS = {"unipc": unipc_2, "dpm++": dpmpp_2m}


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9, 25])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_follows_its_formula(noise, solver, steps):
    x = noise(2, 3, seed=steps)
    sigmas = grid(steps)
    expected = FORMULAS[solver](bent_x0, x.double().numpy(), sigmas.double().tolist())
    torch.testing.assert_close(SOLVERS[solver].sample(Model(bent_x0), x, sigmas), torch.from_numpy(expected).float(), atol=3e-6, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_unipc_follows_its_formula_down_to_zero(noise, shift):
    x, sigmas = noise(2, 3), build_schedule("unipc", 8, shift).sigmas
    expected = unipc_2(bent_x0, x.double().numpy(), sigmas.double().tolist())
    torch.testing.assert_close(sample_unipc(Model(bent_x0), x, sigmas), torch.from_numpy(expected).float(), atol=3e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_error_falls_with_the_square_of_the_step(solver):
    x = torch.tensor([[1.0, -0.5]])
    exact = x * gaussian_scale(0.2) / gaussian_scale(0.8)
    errors = [(SOLVERS[solver].sample(Model(), x, grid(steps, 0.8, 0.2)) - exact).abs().max().item() for steps in (20, 40, 80)]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.3)
    assert errors[2] < 1e-4


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sigmas", [grid(1), grid(3), grid(12), torch.linspace(1, 0, 6), torch.tensor([1.0, 0.0])], ids=len)
def test_constant_x0_is_solved_exactly(noise, solver, sigmas):
    x, target = noise(2, 3, seed=1), noise(2, 3, seed=2)
    result = SOLVERS[solver].sample(Model(lambda *_: target.numpy()), x, sigmas)
    direction = (x - (1 - sigmas[0]) * target) / sigmas[0]
    torch.testing.assert_close(result, (1 - sigmas[-1]) * target + sigmas[-1] * direction, atol=2e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_start_at_pure_noise_is_finite_and_close(solver, steps):
    x = torch.tensor([[1.0, -0.5]])
    result = SOLVERS[solver].sample(Model(), x, build_schedule("dpm++", steps, 3.0).sigmas)
    assert result.isfinite().all()
    if steps == 40:
        torch.testing.assert_close(result, x * SPREAD, atol=0.02, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_second_step_from_pure_noise_is_of_first_order(solver):
    """At sigma 1 the slope of x0 has no length in lambda, so step 2 must not use it."""
    seen = Model(bent_x0)
    SOLVERS[solver].sample(seen, torch.tensor([[0.3]]), torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0]))
    (x1, *_), (x2, *_) = seen.calls[1], seen.calls[2]
    first, second = (float(bent_x0(x.double().numpy(), level)[0, 0]) for x, level in ((torch.tensor([[0.3]]), 1.0), (x1, 0.8)))
    weight = -0.2  # (1 - 0.8) * expm1(-inf)
    start = float(x1) if solver == "dpm++" else 0.8 * 0.3 - weight * (first + 0.5 * (second - first))
    h = log_snr(0.5) - log_snr(0.8)
    assert float(x2) == pytest.approx(0.5 / 0.8 * start - 0.5 * math.expm1(-h) * second, abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_to_zero_returns_the_prediction(noise, solver):
    x = noise(1, 4)
    model = Model(bent_x0)
    result = SOLVERS[solver].sample(model, x, build_schedule(solver, 1, 3.0).sigmas)
    torch.testing.assert_close(result, torch.from_numpy(bent_x0(x.double().numpy(), float(model.calls[0][1]))).float(), atol=1e-6, rtol=0)
    assert len(model.calls) == 1


@pytest.mark.parametrize("solver", SOLVERS)
def test_model_is_called_once_per_step_with_sigma_per_sample(noise, solver):
    model, sigmas = Model(), grid(5)
    x = noise(3, 2)
    before = x.clone()
    SOLVERS[solver].sample(model, x, sigmas, extra_args={"model_options": 1})
    assert len(model.calls) == 5
    for (_, sigma, extra_args), expected in zip(model.calls, sigmas, strict=False):
        assert torch.equal(sigma, expected.expand(3))
        assert extra_args == {"model_options": 1}
    assert torch.equal(model.calls[0][0], before)
    assert torch.equal(x, before)


@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_reports_each_step(noise, solver):
    reports, sigmas = [], grid(4)
    SOLVERS[solver].sample(Model(lambda x, sigma: np.full_like(x, sigma)), noise(1, 2), sigmas, callback=reports.append)
    assert [report["i"] for report in reports] == [0, 1, 2, 3]
    for report, sigma in zip(reports, sigmas, strict=False):
        assert report["sigma"] == report["sigma_hat"] == sigma
        torch.testing.assert_close(report["denoised"], sigma.expand(1, 2))
        assert report["x"].shape == (1, 2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_can_stop_the_run(noise, solver):
    class Stop(BaseException):
        pass

    def stop(report):
        if report["i"] == 1:
            raise Stop

    model = Model()
    with pytest.raises(Stop):
        SOLVERS[solver].sample(model, noise(1, 2), grid(4), callback=stop)
    assert len(model.calls) == 2


def test_unipc_rounds_its_state_between_steps(noise):
    x, sigmas, model = noise(1, 64), grid(6), Model(bent_x0)
    rounded = sample_unipc(model, x, sigmas, state_dtype=torch.bfloat16)
    assert rounded.dtype == torch.float32
    for state in [rounded, *(seen for seen, *_ in model.calls)]:
        assert torch.equal(state, state.bfloat16().float())
    exact = sample_unipc(Model(bent_x0), x, sigmas)
    assert 1e-4 < (rounded - exact).abs().max() < 0.1


def test_rounded_state_also_enters_the_corrector():
    """The reference keeps the corrected sample in the dtype of its noise too."""
    reports = []
    sample_unipc(Model(bent_x0), torch.linspace(-2, 2, 64)[None], grid(6), callback=reports.append, state_dtype=torch.bfloat16)
    assert all(torch.equal(report["x"], report["x"].bfloat16().float()) for report in reports)


def test_dpmpp_keeps_its_state_in_float32(noise):
    model = Model(bent_x0)
    sample_dpmpp(model, noise(1, 64), grid(6), state_dtype=torch.bfloat16)
    assert not torch.equal(model.calls[3][0], model.calls[3][0].bfloat16().float())
