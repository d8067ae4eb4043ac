"""Which numbers the nodes and the command line take, and what is wrong with others. Needs neither PyTorch nor ComfyUI."""

import math
from numbers import Real
from typing import NamedTuple

from .constants import PIXELS_PER_TOKEN, TEMPORAL_STRIDE
from .untrusted import shown


class Multiples(NamedTuple):
    """The multiples of `step` from `lowest` to `highest`, both included."""

    step: int
    lowest: int
    highest: int

    def __str__(self) -> str:
        return f"{self.step} from {self.lowest} to {self.highest}"

    def allow(self, number: int) -> bool:
        """Whether a number is one of them."""
        return number % self.step == 0 and self.lowest <= number <= self.highest

    def nearest(self, number: float) -> int:
        """The one that is nearest to a number, also to one without end; to NaN, which is near none, the lowest."""
        within = max(self.lowest, min(number, self.highest))  # in this order NaN gives the lowest
        return round(within / self.step) * self.step

    def problem(self, name: str, number: int | None) -> str | None:
        """What is wrong with an input of a node, None if nothing; a linked one (None) is not known yet."""
        if number is not None and not (isinstance(number, Real) and -math.inf < number < math.inf):
            return f"{name} must be a number; got {shown(number)}."
        if number is None or self.allow(number):
            return None
        return f"{name} must be a multiple of {self}, got {shown(number)}; try {self.nearest(number)}."


SIDES_PX = Multiples(PIXELS_PER_TOKEN, 64, 2048)
LARGEST_SEED = 2**64 - 1  # that PyTorch takes
FRAMES_PER_CLIP = Multiples(TEMPORAL_STRIDE, 4, 120)  # from 124 on the video would reach the RoPE time of the reference picture


def share_problem(what: str, prefix: str, start: float | None, end: float | None, instead: str) -> str | None:
    """What is wrong with the shares of the steps between which something holds, None if nothing.

    Args:
        what: that holds, as a sentence begins. prefix: of the names of both inputs. start, end: None while they are linked.
        instead: how to switch it off.
    """
    if start is None or end is None:
        return None
    if isinstance(start, Real) and isinstance(end, Real) and 0 <= start < end <= 1:
        return None
    got = f"{prefix}start_percent {shown(start)} and {prefix}end_percent {shown(end)}"
    return f"{what} must begin before it ends, both between 0 and 1: got {got}. {instead}"
