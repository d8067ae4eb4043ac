"""What to do when the GPU runs out of memory: the same work in less memory, one rung after the other.

No rung approximates anything; products of another size may round the last bit in another way.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import comfy.model_management
import comfy.sd
from torch import Tensor

from ..constants import SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..vae_tiling import Grid, grids
from .memory import take_all_others_off_gpu
from .vae import can_tile, decode_latents, encode_pixels, fitting_grid

logger = logging.getLogger("wan_s2v")

OOM_ERRORS = (comfy.model_management.OOM_EXCEPTION, comfy.model_management.ACCELERATOR_ERROR)
KEPT = "The finished clips are kept where the run has a name: queue the same again to go on. "
VAE_ADVICE = (
    f"{KEPT}For that close other programs that use the GPU. Setting dtype to bf16 in Load Wan S2V VAE and a smaller size help, too, but "
    "with them it is another run."
)

Result = TypeVar("Result")


class Ladder:
    """Repeats work that ran out of memory. A rung that was taken stays taken, so the work that follows does not fail there again.

    Args:
        what: the work, for the log. rungs: takes the next rung when it is advanced, and yields what was done, in words.
        advice: what the user can do when no rung is left.
    """

    def __init__(self, what: str, rungs: Iterator[str], advice: str):
        self._what, self._rungs, self._advice = what, rungs, advice

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of the work.

        Raises:
            torch.OutOfMemoryError: there is no rung left.
        """
        while True:
            try:
                return work()
            except OOM_ERRORS as error:
                comfy.model_management.raise_non_oom(error)
                reason = str(error).partition("\n")[0]
            self._step_down(reason)  # behind the except clause, where the error no longer keeps the tensors of the failed work alive

    def _step_down(self, reason: str) -> None:
        comfy.model_management.soft_empty_cache()
        rung = next(self._rungs, None)
        if rung is None:
            raise comfy.model_management.OOM_EXCEPTION(
                f"The GPU ran out of memory in {self._what}, and there is no way left to use less. {self._advice} ({reason})"
            )
        comfy.model_management.soft_empty_cache()
        logger.warning("the GPU ran out of memory in %s (%s); once more, %s", self._what, reason, rung)


def run_encoder(what: str, encoder: Any, work: Callable[[], Result], advice: str) -> Result:
    """The result of an encoder of text or sound; where memory runs out it gets the GPU to itself.

    Args:
        what: the work, for the log. encoder: a CLIP or AUDIO_ENCODER, with its `patcher`.
        advice: what the user can do if that is too little.
    Raises:
        torch.OutOfMemoryError: that was not enough.
    """

    def rungs() -> Iterator[str]:
        take_all_others_off_gpu(encoder.patcher)
        yield "with everything else off the GPU"

    return Ladder(what, rungs(), advice).run(work)


class RunVae:
    """The VAE of one run, for pictures of one size: where memory runs out it gets the GPU to itself, then smaller tiles."""

    def __init__(self, vae: comfy.sd.VAE):
        self._vae = vae
        self._tried: dict[str, Grid] = {}
        self._chosen: dict[str, Grid] = {}
        self._ladders: dict[str, Ladder] = {}

    def encode(self, frames: Tensor) -> Tensor:
        """`encode_pixels`."""
        num_frames, height, width = frames.shape[:3]
        shape = ((num_frames - 1) // TEMPORAL_STRIDE + 1, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
        return self._run("encode", shape, lambda grid: encode_pixels(self._vae, frames, grid))

    def decode(self, latents: Tensor, newest: int | None = None) -> Tensor:
        """`decode_latents`."""
        return self._run("decode", tuple(latents.shape[2:]), lambda grid: decode_latents(self._vae, latents, grid, newest))

    def _run(self, name: str, shape: tuple[int, ...], work: Callable[[Grid | None], Tensor]) -> Tensor:
        num_latents, height, width = shape
        if name not in self._ladders:
            self._ladders[name] = Ladder(f"VAE {name}", self._rungs(name, height, width), VAE_ADVICE)

        def attempt() -> Tensor:
            if not can_tile(self._vae):
                return work(None)
            self._tried[name] = self._chosen.get(name) or fitting_grid(self._vae, name, height, width, num_latents)
            return work(self._tried[name])

        return self._ladders[name].run(attempt)

    def _rungs(self, name: str, height: int, width: int) -> Iterator[str]:
        take_all_others_off_gpu(self._vae.patcher)
        yield "with everything else off the GPU"
        if not can_tile(self._vae):
            return
        ladder = grids(height, width)
        for grid in ladder[ladder.index(self._tried.get(name, ladder[0])) + 1 :]:
            self._chosen[name] = grid
            yield f"in {grid[0]} x {grid[1]} tiles"
