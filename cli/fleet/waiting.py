"""A bar for each job, until all have ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from celery import states as celery_states
from tqdm import tqdm

from .rendering import describe
from .states import ENDED, JobState, States

try:
    from ...wan_s2v_model.time_text import duration
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.time_text import duration

LOOK_S = 0.5
NAME_CHARACTERS = 24
FORM = "{desc} [{bar:24}] {percentage:3.0f} % {postfix}"


def wait_for(states: States, names: Sequence[str]) -> list[JobState]:
    """Show how far the jobs are until each was made, failed or was cancelled."""
    show = Bars(names) if sys.stderr.isatty() else Lines()
    known: dict[str, JobState] = {}
    try:
        while len(ended := [name for name in known if known[name].state in ENDED]) < len(set(names)):
            for name in set(names) - set(ended):
                known[name] = states.read(name)
                show.update(known[name])
            time.sleep(LOOK_S)
    finally:
        show.close()
    return [known[name] for name in names]


class Bars:
    """A line of the terminal for each job."""

    def __init__(self, names: Sequence[str]) -> None:
        width = min(NAME_CHARACTERS, max(map(len, names), default=0))
        form = {"total": 1.0, "bar_format": FORM, "ascii": "-#"}
        self._bars = {name: tqdm(desc=name[:width].ljust(width), position=row, **form) for row, name in enumerate(dict.fromkeys(names))}

    def update(self, state: JobState) -> None:
        bar = self._bars[state.name]
        bar.n = share_of(state)
        bar.set_postfix_str(words(state))

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


class Lines:
    """A line of a log for each clip of each job."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def update(self, state: JobState) -> None:
        topic = words(state).split(",")[0]
        if self._told.get(state.name) != topic:
            self._told[state.name] = topic
            print(f"{state.name}: {topic}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is left to be done."""


def words(state: JobState) -> str:
    """What is to be said of a job beside its name."""
    if state.state == celery_states.SUCCESS:
        return f"made in {duration(state.info.get('seconds', 0))}: {state.info.get('video', '')}"
    if state.state == celery_states.FAILURE:
        return f"failed: {state.error}"
    if state.state == celery_states.REVOKED:
        return "cancelled, or past its deadline"
    if "clip" in state.info:
        left = state.info.get("left_s")
        return describe(state.info) + (f", {duration(left)} left" if left is not None else "")
    return "begun" if state.info else "waiting"


def share_of(state: JobState) -> float:
    """How much of a job is done, 0 to 1."""
    if state.state == celery_states.SUCCESS:
        return 1.0
    info = state.info
    if "clip" not in info or not info.get("clips"):
        return 0.0
    return min(1.0, (info["clip"] - 1 + (info.get("step") or 0) / (info.get("steps") or 1)) / info["clips"])
