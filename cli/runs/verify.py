"""Checks every clip file of a run against its hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..command import command
from ..models.download import digest_of
from .folder import Clip, Run, RunsError, reading

HASH_CHANGED = "is damaged (its content has changed since it was written)"


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        problems: clip and what is wrong with its file.
        num_hashed: clips that were compared with a hash; of the others only the structure was looked at.
    """

    run: Run
    problems: tuple[tuple[Clip, str], ...]
    num_hashed: int

    @property
    def redo_from(self) -> int | None:
        """First clip that has to be made again."""
        return self.problems[0][0].index if self.problems else None


def verify(run: Run, progress: Callable[[int, int], None] = lambda _done, _total: None) -> Verification:
    """Look at every clip that the manifest lists.

    Args:
        progress: called with the number of clips done, and of all.
    Raises:
        RunsError: if the manifest cannot be read.
    """
    if run.problem:
        raise RunsError(f"Run '{run.name}' cannot be verified: {run.problem}. {advice_for(run)}")
    problems = []
    with reading(run.folder):
        for done, clip in enumerate(run.clips):
            progress(done, len(run.clips))
            if problem := clip.problem or _hash_problem(clip):
                problems.append((clip, problem))
    progress(len(run.clips), len(run.clips))
    return Verification(run, tuple(problems), sum(bool(clip.sha256) for clip in run.clips))


def advice_for(run: Run) -> str:
    """What to do about a run whose manifest cannot be read."""
    if run.is_foreign:
        return "It is not a run; a prompt with this run name makes one of it."
    if "newer" in run.problem:
        return "Update the pack, or use another run name."
    return f'A prompt with this run name is refused. Use another one, or delete this run: {command()} runs delete "{run.name}" --yes'


def _hash_problem(clip: Clip) -> str:
    if not clip.sha256:
        return ""
    try:
        return "" if digest_of(clip.path, clip.sha256) == clip.sha256 else HASH_CHANGED
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
