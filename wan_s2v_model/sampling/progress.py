"""How far a run is, in words: which clip and step, for how long already, and for how long still."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

from ..time_text import duration


class Progress:
    """Counts the steps of the clips that are still to be made.

    Args:
        first_clip: clips that are there already; they cost this run no time and do not count in its pace.
        calls_of_steps: model calls in each step of a clip, where steps take unequally long.
        clock: seconds from a clock that is never set, so that changed clocks and time zones do no harm.
    """

    def __init__(
        self,
        num_clips: int,
        steps_per_clip: int,
        first_clip: int = 0,
        calls_of_steps: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.num_clips = num_clips
        self.steps_per_clip = steps_per_clip
        self._clock = clock
        self._start_s = clock()
        self._calls = list(accumulate(calls_of_steps or [1] * steps_per_clip, initial=0))  # after so many steps of a clip
        self._first_clip = first_clip
        self._finished = first_clip, self._start_s  # clips, and when the last one was

    def finish_clip(self, clip: int) -> None:
        """Clip `clip`, counted from 0, is on disk."""
        self._finished = clip + 1, self._clock()

    def line(self, done_steps: int) -> str:
        """What to show after so many steps of the whole run: clip 11 (12 of 720), step 17/40, 1:02:03 elapsed, 4:05:06 left."""
        clip, step = divmod(max(0, done_steps - 1), self.steps_per_clip)
        place = f"{clip_place(clip, self.num_clips)}, step {step + 1}/{self.steps_per_clip}"
        text = f"{place}, {duration(self._clock() - self._start_s)} elapsed"
        left = self.seconds_left(done_steps)
        return text if left is None else f"{text}, {duration(left)} left"

    def seconds_left(self, done_steps: int) -> float | None:
        """At the pace of the clips finished since the start, or while there is none, of the steps; None before the first step."""
        clips, last_finish_s = self._finished
        done_clips, now_s = self._done_clips(done_steps), self._clock()
        if clips > self._first_clip:
            per_clip = (last_finish_s - self._start_s) / (clips - self._first_clip)
            return max(0.0, (self.num_clips - clips) * per_clip - (now_s - last_finish_s))
        made = done_clips - self._first_clip
        return (self.num_clips - done_clips) * (now_s - self._start_s) / made if made > 0 else None

    def _done_clips(self, done_steps: int) -> float:
        clips, steps = divmod(done_steps, self.steps_per_clip)
        return clips + self._calls[steps] / self._calls[-1]


def clip_place(clip: int, num_clips: int) -> str:
    """A clip by the number that `redo_from_clip` takes, and how far it is: clip 7 (8 of 12)."""
    return f"clip {clip} ({clip + 1} of {num_clips})"
