"""Noise levels of the steps, and the steps that are guided."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..constants import DEFAULT_GUIDANCE_SCALE, DEFAULT_SHIFT, DEFAULT_STEPS, TRAIN_TIMESTEPS
from .solvers import SOLVERS

FIRST_SIGMA = 1.0  # before shifting, for samplers that are not in SOLVERS
MIN_SIGMAS = 2


class Preset(NamedTuple):
    """Settings of the sampler that belong together."""

    steps: int
    cfg: float
    shift: float
    solver: str


PRESETS = {
    "draft": Preset(4, 1.0, 5.0, "euler"),  # the noise levels for which the 4-step LoRA was distilled
    "final": Preset(DEFAULT_STEPS, DEFAULT_GUIDANCE_SCALE, DEFAULT_SHIFT, "unipc"),  # as the reference
}


@dataclass(frozen=True)
class Schedule:
    """Sigmas for the solver and the timesteps that the model is told.

    Attributes:
        sigmas: [steps + 1] float32, descending, last 0.
        timesteps: [steps] int64, 1000 * sigma truncated, as in the reference.
    """

    sigmas: Tensor
    timesteps: Tensor
    _there: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def truncated_timesteps(self, timesteps: Tensor) -> Tensor:
        """Truncated timestep of the step that belongs to each untruncated one: [B] -> [B]. Waits for a device at its first call only."""
        device = timesteps.device
        if device not in self._there:
            self._there[device] = self.sigmas[:-1].to(device) * TRAIN_TIMESTEPS, self.timesteps.to(device)
        exact, truncated = self._there[device]
        return truncated[(exact - timesteps[:, None]).abs().argmin(dim=1)]


def build_schedule(solver: str, steps: int, shift: float, strength: float = 1.0) -> Schedule:
    """The schedule of one of SOLVERS, or of another sampler by its name.

    Args:
        strength: below 1 it begins at a lower noise level: as many steps, the last ones of steps / strength.
    """
    first = SOLVERS[solver].first_sigma if solver in SOLVERS else FIRST_SIGMA
    base = np.linspace(first, 0.0, round(steps / strength) + 1)[-steps - 1 : -1]
    sigmas = shift * base / (1 + (shift - 1) * base)
    timesteps = (sigmas * TRAIN_TIMESTEPS).astype(np.int64)
    return Schedule(torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32)), torch.from_numpy(timesteps))


def guided_steps(num_steps: int, start: float, end: float) -> range:
    """The steps between two shares of the way, rounded half up: 0 to 1 are all, and the smallest share is one step."""
    if start >= end:
        return range(0)
    first = min(math.floor(start * num_steps + 0.5), num_steps - 1)
    return range(first, max(first + 1, math.floor(end * num_steps + 0.5)))


def check_sigmas(sigmas: Tensor, strength: float = 1.0) -> Tensor:
    """Noise levels of another node as float32 on the CPU.

    Raises:
        ValueError: they are not one row that falls from at most 1 to at least 0, or there is a strength of a dub beside them.
    """
    if strength < 1:
        raise ValueError(
            f"strength {strength:g} of Dub Video and sigmas of Sample Video both say at which noise level a clip begins. Disconnect "
            "sigmas, or set strength to 1 and let the sigmas begin lower."
        )
    levels = sigmas.detach().float().cpu()
    if levels.ndim != 1 or len(levels) < MIN_SIGMAS:
        raise ValueError(f"sigmas must be one row of at least {MIN_SIGMAS} noise levels, one step apart; got shape {tuple(levels.shape)}.")
    is_falling = bool((levels.diff() < 0).all())  # not with NaN
    if not is_falling or levels[0] > 1 or levels[-1] < 0:
        first = ", ".join(f"{level:g}" for level in levels[:4].tolist())
        raise ValueError(
            f"sigmas must fall from at most 1 to 0, the noise levels of a flow model; got {first}, ..., {levels[-1].item():g}. Make them "
            "for this MODEL with Basic Scheduler, or leave the input free. Karras and exponential schedules are for other models."
        )
    return levels


def guided_levels(sigmas: Tensor, steps: range) -> tuple[float, float]:
    """The noise levels of these steps: above the first number returned, up to the second. Works inside of steps, too.

    Args:
        sigmas: [number of steps + 1], descending.
    """
    lowest = float(sigmas[steps.stop]) if steps.stop < len(sigmas) - 1 else -math.inf
    highest = float(sigmas[steps.start]) if steps.start > 0 else math.inf
    return lowest, highest
