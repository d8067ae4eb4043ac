"""Kind `solver`: trajectories of the two flow solvers on a linear toy denoiser."""

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from ...wan_s2v_model.sampling.schedule import build_schedule
from ...wan_s2v_model.sampling.solvers import SOLVERS
from .case import EXACT, Case, Measured, Row

SAMPLE_TOLERANCE = 5e-6
SIGMA_TOLERANCE = 1e-6
DENOISER = "v = A @ x.flatten() + b*sin(pi*t/1000)"
NAME = re.compile(r"(?P<run>(?P<solver>.+)\.steps(?P<steps>\d+)\.shift(?P<shift>\d+(\.\d+)?))\.[^.]+")


def replay(case: Case) -> Iterator[Row]:
    if not case.setting("denoiser", DENOISER).startswith(DENOISER):
        raise ValueError(f"the toy denoiser is not {DENOISER}")
    toy = case.input("A"), case.input("b")
    x_init = case.input("x_init")
    runs = {match["run"]: match for match in map(NAME.fullmatch, case.tensors) if match}
    measured: dict[str, Measured] = {}
    for run, match in runs.items():
        if match["solver"] not in SOLVERS:
            raise ValueError(f"unknown solver {match['solver']}")
        measured |= _solve(run, match["solver"], int(match["steps"]), float(match["shift"]), toy, x_init)
    yield from case.compare(measured)


def _solve(run: str, solver: str, steps: int, shift: float, toy: tuple[Tensor, Tensor], x_init: Tensor) -> dict[str, Measured]:
    matrix, bias = toy
    schedule = build_schedule(solver, steps, shift)
    timesteps = iter(schedule.timesteps.tolist())
    samples: list[Tensor] = []
    velocities: list[Tensor] = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        velocity = (matrix @ x.flatten() + bias * math.sin(math.pi * next(timesteps) / 1000)).reshape(x.shape)
        samples.append(x)
        velocities.append(velocity)
        return x - sigma[0] * velocity

    samples.append(SOLVERS[solver].sample(denoise, x_init, schedule.sigmas))
    return {
        f"{run}.sigmas": Measured(schedule.sigmas, SIGMA_TOLERANCE),
        f"{run}.timesteps": Measured(schedule.timesteps, EXACT),
        f"{run}.samples": Measured(torch.stack(samples), SAMPLE_TOLERANCE),
        f"{run}.velocities_first3": Measured(torch.stack(velocities[:3]), SAMPLE_TOLERANCE),
    }
