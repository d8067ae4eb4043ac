"""The two flow solvers of the reference, with the call signature of k-diffusion samplers; `SOLVERS` at the end lists them.

Source: UniPC (Zhao et al. 2023, order 2, bh2, corrector on) and DPM-Solver++ 2M midpoint (Lu et al. 2022), both for flow matching:
alpha = 1 - sigma, lambda = log(alpha / sigma), and the model predicts x0 = x - sigma * velocity.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Denoiser = Callable[..., Tensor]


def sample_unipc(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    state_dtype: torch.dtype | None = None,
) -> Tensor:
    """UniPC order 2 with corrector.

    Args:
        model: called as model(x, sigma[B], **extra_args), returns x0.
        x: initial noise, unscaled. sigmas: [steps + 1], descending.
        state_dtype: dtype to which the sample is rounded between steps; the reference uses that of its noise (bf16 on a GPU).
    """
    levels = [float(sigma) for sigma in sigmas]
    steps = len(levels) - 1
    predictions: list[Tensor] = []  # x0 of the last three steps, oldest first
    previous, order = x, 1
    for i in range(steps):
        x = _round(x, state_dtype)
        predictions = [*predictions[-2:], _denoise(model, x, sigmas[i], extra_args)]
        if i > 0:
            x = _round(_unipc_correct(previous, predictions, levels[max(0, i - 2) : i + 1], order), state_dtype)
        if callback is not None:
            callback({"i": i, "x": x, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": predictions[-1]})
        previous = x
        order = 1 if i in (0, steps - 1) else 2
        x = _multistep(x, predictions, levels[max(0, i - 1) : i + 2], order)
    return _round(x, state_dtype)


def sample_dpmpp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    state_dtype: torch.dtype | None = None,
) -> Tensor:
    """DPM-Solver++ 2M, midpoint. Same arguments as sample_unipc; the state stays float32 as in the reference."""
    levels = [float(sigma) for sigma in sigmas]
    steps = len(levels) - 1
    predictions: list[Tensor] = []
    for i in range(steps):
        predictions = [*predictions[-1:], _denoise(model, x, sigmas[i], extra_args)]
        if callback is not None:
            callback({"i": i, "x": x, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": predictions[-1]})
        x = _multistep(x, predictions, levels[max(0, i - 1) : i + 2], 1 if i in (0, steps - 1) else 2)
    return x


def _denoise(model: Denoiser, x: Tensor, sigma: Tensor, extra_args: dict[str, Any] | None) -> Tensor:
    return model(x, sigma.to(x.device) * torch.ones(x.shape[0], device=x.device), **(extra_args or {})).float()


def _round(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x.float() if dtype is None else x.to(dtype).float()


def _log_snr(sigma: float) -> float:
    if sigma <= 0:
        return math.inf
    return math.log1p(-sigma) - math.log(sigma) if sigma < 1 else -math.inf


def _first_order(x: Tensor, prediction: Tensor, sigma_from: float, sigma_to: float) -> tuple[Tensor, float, float]:
    """Exact step for a constant x0; also the step h in lambda and the weight a * expm1(-h) of higher orders."""
    h = _log_snr(sigma_to) - _log_snr(sigma_from)
    weight = (1 - sigma_to) * math.expm1(-h)
    return sigma_to / sigma_from * x - weight * prediction, h, weight


def _multistep(x: Tensor, predictions: list[Tensor], levels: list[float], order: int) -> Tensor:
    """Predict the sample at levels[-1] from x at levels[-2]; order 2 uses the prediction made at levels[-3]."""
    base, h, weight = _first_order(x, predictions[-1], levels[-2], levels[-1])
    if order == 1:
        return base
    h_before = _log_snr(levels[-2]) - _log_snr(levels[-3])
    slope = (predictions[-1] - predictions[-2]) * (h / h_before)  # 0 where h_before is infinite
    return base - weight * 0.5 * slope


def _unipc_correct(x: Tensor, predictions: list[Tensor], levels: list[float], order: int) -> Tensor:
    """Redo the step to levels[-1] from x at levels[-2], now that x0 there (predictions[-1]) is known."""
    base, h, weight = _first_order(x, predictions[-2], levels[-2], levels[-1])
    difference = predictions[-1] - predictions[-2]
    r = (_log_snr(levels[-3]) - _log_snr(levels[-2])) / h if order == 2 else -math.inf
    if math.isinf(r):
        return base - weight * 0.5 * difference
    first = (math.expm1(-h) / -h - 1) / math.expm1(-h)
    second = 2 * ((math.expm1(-h) / -h - 1) / -h - 0.5) / math.expm1(-h)
    rho_before = (first - second) / (1 - r)
    slope = (predictions[-3] - predictions[-2]) / r
    return base - weight * (rho_before * slope + (first - rho_before) * difference)


class Solver(NamedTuple):
    """A solver and its schedule.

    Attributes:
        sample: called as `sample_unipc` is. first_sigma: noise level of the first step, before shifting.
    """

    sample: Callable[..., Tensor]
    first_sigma: float


SOLVERS = {
    "unipc": Solver(sample_unipc, first_sigma=float(np.float32(0.999))),  # in float32 in the reference
    "dpm++": Solver(sample_dpmpp, first_sigma=1.0),
}
