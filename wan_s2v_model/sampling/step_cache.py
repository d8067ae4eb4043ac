"""Steps that are guessed instead of predicted, learnt from clips that are sampled in full.

A guess goes on as the last prediction said: with the same velocity, v = (x - x0) / sigma. A clip that is sampled in full leaves a table:
the steps of later clips that may be guessed, so that their error is expected to stay below the one that is allowed. Now and then a clip is
sampled both ways. What then differs is the true error; it is noted, and the next table keeps to it. Where it was as expected, the next
comparison comes twice as late.

The expected error: what the steps add to the latents is linear in their velocities, so guessing adds differences between velocities, and
the size of their sum follows from scalar products. How the model answers to latents that are a little wrong is not in there; the
comparison says how much that matters.
"""

import heapq
import logging
import math
from collections.abc import Callable, Collection, MutableSequence, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

SAMPLED = 2**16  # values of a prediction that stand for all of them in the table
HELD = 1.5  # an expected error has held if the true one is at most so many times as large
MOST_DOUBLINGS = 2  # of the distance between comparisons: what the clips show may change
SMALLEST_RATIO = 0.1  # of the true error to the expected one: one lucky comparison does not let ten times as many steps be guessed
logger = logging.getLogger("wan_s2v")


@dataclass(frozen=True)
class StepCache:
    """What may be guessed.

    Attributes:
        allowed_error: of the latents of a clip, relative to the clip sampled in full.
        check_every: clips from the first one to the comparison with it, and on to the next, unless the expected error has held.
    """

    allowed_error: float
    check_every: int


@dataclass(frozen=True)
class Table:
    """What a clip that was sampled in full has taught; kept with the run.

    Attributes:
        clip: which one. prompt: the clip in which its prompt begins; the table holds for that prompt.
        steps: how many there are. guessed: those that later clips guess. expected: the error that this is expected to make.
        error: that of the table before, measured in this clip; None where there was nothing to compare.
    """

    clip: int
    prompt: int
    steps: int
    guessed: tuple[int, ...]
    expected: float
    error: float | None = None


@dataclass
class Steps:
    """Predicts the steps of one clip, each as it is or by a guess.

    Attributes:
        sigmas: [number of steps + 1], descending. guessed: steps that need no model. learns: keep a sample of each velocity.
    """

    sigmas: Tensor
    guessed: Collection[int] = ()
    learns: bool = False
    samples: list[Tensor] = field(default_factory=list)
    _velocity: Tensor | None = None  # the last one that was predicted
    _step: int = 0
    _is_regular: bool = True

    def begin(self) -> None:
        """The clip begins, perhaps once more."""
        self.samples, self._velocity, self._step, self._is_regular = [], None, 0, True

    @property
    def is_regular(self) -> bool:
        """Whether the sampler has asked once in each step, at its noise level."""
        return self._is_regular and self._step == len(self.sigmas) - 1

    def predict(self, x: Tensor, level: float, ask: Callable[[], Tensor]) -> Tensor:
        """The x0 of a step, [B, 16, F, h, w].

        Args:
            level: sigma of x. ask: calls the model.
        """
        step = self._step
        self._step += 1
        self._is_regular &= step < len(self.sigmas) - 1 and level > 0 and math.isclose(level, float(self.sigmas[step]), rel_tol=1e-4)
        if self._is_regular and step in self.guessed and self._velocity is not None:
            return x - level * self._velocity
        x0 = ask()
        if self._is_regular:
            self._velocity = (x - x0) / level
            if self.learns:
                self.samples.append(thinned(self._velocity))
        return x0


def thinned(x: Tensor) -> Tensor:
    """Some values of a tensor, the same ones for all of a shape: [up to SAMPLED] float32 on the CPU."""
    values = x.flatten()
    stride = max(1, len(values) // SAMPLED) | 1  # odd, so that all columns of the picture take part
    return values[::stride].float().cpu()


class Errors:
    """The error that guessing would have made in a clip that was sampled in full, relative to its latents.

    Args:
        samples: of the velocities of all steps, each [n]. latents: a sample of the result, [n]. sigmas: [number of steps + 1].
    """

    def __init__(self, samples: Sequence[Tensor], latents: Tensor, sigmas: Tensor) -> None:
        velocities = torch.stack(list(samples)).double()
        self._products = velocities @ velocities.T / latents.double().square().sum()
        self._widths = (sigmas[:-1] - sigmas[1:]).double().tolist()

    def of(self, guessed: Collection[int]) -> float:
        """The error of guessing these steps."""
        factors = torch.zeros(len(self._widths), dtype=torch.float64)
        last = 0
        for step, width in enumerate(self._widths):
            if step in guessed:
                factors[step] -= width
                factors[last] += width
            else:
                last = step
        return math.sqrt(max(0.0, float(factors @ self._products @ factors)))

    def choose(self, allowed: float) -> tuple[int, ...]:
        """As many steps as can be guessed with no more error, found one by one: next comes the one that then costs least."""
        chosen: set[int] = set()
        queue = [(0.0, step, -1) for step in range(1, len(self._widths))]  # cost, step, how many were chosen when it was reckoned
        while queue:
            cost, step, num_chosen = heapq.heappop(queue)
            if num_chosen < len(chosen):
                heapq.heappush(queue, (self.of(chosen | {step}), step, len(chosen)))
            elif cost > allowed:
                break
            else:
                chosen.add(step)
        return tuple(sorted(chosen))


class CachedClips:
    """Samples clips with a step cache.

    Args:
        sigmas: [number of steps + 1], the same in every clip. notes: tables as they are kept with a run, oldest first; new ones are added.
    """

    def __init__(self, cache: StepCache, sigmas: Tensor, notes: MutableSequence[dict[str, Any]] | None = None) -> None:
        self.notes: MutableSequence[dict[str, Any]] = [] if notes is None else notes
        self.num_guessed = self.num_steps = 0  # in this process; a clip that is sampled both ways has twice as many
        self._cache = cache
        self._sigmas = sigmas
        self._is_off = False

    def sample(self, clip: int, prompt: int, run: Callable[[Steps], Tensor]) -> Tensor:
        """The latents of a clip.

        Args:
            prompt: the clip in which its prompt begins. run: samples the clip with these steps; may be called twice.
        """
        table = None if self._is_off else self._table(prompt)
        if self._is_off or (table is not None and clip - table.clip < self._distance(prompt)):
            return self._run(run, Steps(self._sigmas, () if table is None else table.guessed))
        guessed = None
        if table is not None and table.guessed:
            logger.info("step cache: clip %d is sampled with guesses, then in full, and both are compared", clip + 1)
            guessed = self._run(run, Steps(self._sigmas, table.guessed))
        full = Steps(self._sigmas, learns=True)
        latents = self._run(run, full)
        if full.is_regular:
            self._learn(clip, prompt, full, latents, table, guessed)
        else:
            self._is_off = True
            logger.warning("step cache: this sampler does not ask the model once in each step, so nothing is guessed; use unipc or dpm++")
        return latents

    def summary(self) -> str:
        """How much was guessed, and the errors that were measured, in words."""
        errors = [(note["clip"] + 1, note["error"]) for note in self.notes if note["error"] is not None]
        measured = ", ".join(f"{error:.1%} in clip {clip}" for clip, error in errors) or "not measured yet"
        return f"step cache: {self.num_guessed} of {self.num_steps} steps guessed, error {measured}"

    def _run(self, run: Callable[[Steps], Tensor], steps: Steps) -> Tensor:
        latents = run(steps)
        self.num_steps += len(self._sigmas) - 1
        self.num_guessed += len(steps.guessed)
        return latents

    def _table(self, prompt: int) -> Table | None:
        """The newest one for a prompt."""
        return next(reversed(self._tables(prompt)), None)

    def _tables(self, prompt: int) -> list[Table]:
        """Those for a prompt and this number of steps, oldest first."""
        steps = len(self._sigmas) - 1
        notes = (note for note in self.notes if note["prompt"] == prompt and note["steps"] == steps)
        return [Table(**{**note, "guessed": tuple(note["guessed"])}) for note in notes]

    def _distance(self, prompt: int) -> int:
        """Clips from the newest table of a prompt to the next comparison: twice as many for each of the last ones that went as expected."""
        doublings = 0
        for before, table in reversed(list(pairwise(self._tables(prompt)))):
            if table.error is None or table.error > HELD * before.expected:
                break
            doublings += 1
        return self._cache.check_every * 2 ** min(doublings, MOST_DOUBLINGS)

    def _learn(self, clip: int, prompt: int, full: Steps, latents: Tensor, table: Table | None, guessed: Tensor | None) -> None:
        """Note the table of a clip that was sampled in full, and the error of the one before it."""
        errors = Errors(full.samples, thinned(latents), self._sigmas)
        ratio, error = 1.0, None
        if table is not None and guessed is not None:
            error = float((guessed - latents).norm() / latents.norm())
            ratio = max(SMALLEST_RATIO, error / max(errors.of(table.guessed), 1e-12))
            logger.info("step cache: clip %d differs by %.2f %% from the clip sampled in full", clip + 1, 100 * error)
        steps = len(self._sigmas) - 1
        chosen = errors.choose(self._cache.allowed_error / ratio)
        if len(chosen) * (self._cache.check_every - 1) < steps - len(chosen):
            chosen = ()  # comparing them would cost more than they save
        expected = errors.of(chosen) * ratio
        self.notes.append(asdict(Table(clip, prompt, steps, chosen, expected, error)))
        logger.info("step cache: %d of %d steps of later clips are guessed, expected error %.2f %%", len(chosen), steps, 100 * expected)
