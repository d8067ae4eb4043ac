"""Noise levels of the steps, and the steps that are guided."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..constants import TRAIN_TIMESTEPS
from .solvers import SOLVERS

FIRST_SIGMA = 1.0  # before shifting, for samplers that are not in SOLVERS


@dataclass(frozen=True)
class Schedule:
    """Sigmas for the solver and the timesteps that the model is told.

    Attributes:
        sigmas: [steps + 1] float32, descending, last 0.
        timesteps: [steps] int64, 1000 * sigma truncated, as in the reference.
    """

    sigmas: Tensor
    timesteps: Tensor

    def truncated_timesteps(self, timesteps: Tensor) -> Tensor:
        """Truncated timestep of the step that belongs to each untruncated one: [B] -> [B]."""
        sigmas = self.sigmas[:-1].to(timesteps.device)
        step = (sigmas * TRAIN_TIMESTEPS - timesteps[:, None]).abs().argmin(dim=1)
        return self.timesteps.to(timesteps.device)[step]


def build_schedule(solver: str, steps: int, shift: float) -> Schedule:
    """The schedule of one of SOLVERS, or of another sampler by its name."""
    first = SOLVERS[solver].first_sigma if solver in SOLVERS else FIRST_SIGMA
    base = np.linspace(first, 0.0, steps + 1)[:-1]
    sigmas = shift * base / (1 + (shift - 1) * base)
    timesteps = (sigmas * TRAIN_TIMESTEPS).astype(np.int64)
    return Schedule(torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32)), torch.from_numpy(timesteps))


def guided_steps(num_steps: int, start: float, end: float) -> range:
    """The steps between two shares of the way, each rounded to whole steps: 0 to 1 are all."""
    return range(round(start * num_steps), round(end * num_steps))


def guided_levels(sigmas: Tensor, steps: range) -> tuple[float, float]:
    """The noise levels of these steps: above the first number returned, up to the second. Works inside of steps, too.

    Args:
        sigmas: [number of steps + 1], descending.
    """
    lowest = float(sigmas[steps.stop]) if steps.stop < len(sigmas) - 1 else -math.inf
    highest = float(sigmas[steps.start]) if steps.start > 0 else math.inf
    return lowest, highest
