"""What `delete` and `clean` would remove, and its removal."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..command import command
from .folder import CLIP_NAME, LIVE_VIDEO_NAME, LOCK_NAME, MANIFEST_NAME, Run, RunsError, locked, read_run

try:
    from ...wan_s2v_model.files import remove as remove_file
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import remove as remove_file

DAY_S = 86_400


@dataclass(frozen=True)
class Removal:
    """Files of one run that are to go.

    Attributes:
        whole: the run itself goes, not only leftovers.
        keeps: files that stay, because no run has such; so does the folder then.
        blocked: why nothing of it may be removed now, "" if it may.
    """

    run: Run
    paths: tuple[Path, ...]
    whole: bool
    size_bytes: int = 0
    keeps: tuple[str, ...] = ()
    blocked: str = ""


def plan_delete(runs: Sequence[Run], names: Sequence[str]) -> list[Removal]:
    """Removal of the named runs.

    Raises:
        RunsError: if there is no run of such a name.
    """
    known = {run.name: run for run in runs}
    if unknown := [name for name in names if name not in known]:
        raise RunsError(f"There is no run {_quoted(unknown)}. `{command('runs list')}` shows all. Nothing was deleted.")
    return [whole_run(known[name]) for name in dict.fromkeys(names)]


def plan_clean(runs: Sequence[Run], patterns: Sequence[str], older_than_days: float | None, now: float) -> list[Removal]:
    """Removal of leftovers, and of old runs among those that the patterns name.

    Args:
        patterns: names of runs, also with * and ?.
        older_than_days: age from which a named run goes.
        now: seconds since 1970.
    Raises:
        RunsError: if patterns are given without an age or the other way round, or a pattern names no run.
    """
    if bool(patterns) != (older_than_days is not None):
        raise RunsError('Old runs are removed with both: their names and --older-than DAYS. For example: clean "test*" --older-than 30')
    if unknown := [pattern for pattern in patterns if not fnmatch.filter([run.name for run in runs], pattern)]:
        raise RunsError(f"No run is named {_quoted(unknown)}. `{command('runs list')}` shows all. Nothing was deleted.")
    removals = []
    for run in runs:
        named = any(fnmatch.fnmatchcase(run.name, pattern) for pattern in patterns)
        if named and older_than_days is not None and now - run.changed > older_than_days * DAY_S:
            removals.append(whole_run(run))
        elif run.leftovers and not run.in_use and not run.folder.is_symlink():
            removals.append(Removal(run, run.leftovers, whole=False, size_bytes=_size_of(run.leftovers)))
    return removals


def whole_run(run: Run) -> Removal:
    """Removal of everything that belongs to the run, the last clip first: cut off, it leaves a shorter run."""
    if run.folder.is_symlink():
        return Removal(run, (), whole=True, blocked="is a link: delete it by hand")
    if run.in_use:
        return Removal(run, (), whole=True, blocked="is in use by another process")
    clips = sorted((path for path in run.folder.iterdir() if CLIP_NAME.fullmatch(path.name) and path.is_file()), reverse=True)
    rest = [path for path in run.leftovers if path not in clips]
    ends = [path for name in (LIVE_VIDEO_NAME, MANIFEST_NAME, LOCK_NAME) if (path := run.folder / name).is_file()]
    paths = (*rest, *clips, *ends)
    if not paths:
        return Removal(run, (), whole=True, blocked="is not a run")
    return Removal(run, paths, whole=True, size_bytes=_size_of(paths), keeps=run.strange)


def remove(removal: Removal) -> None:
    """Delete the files, and the folder of a whole run if nothing else lies in it.

    Raises:
        InUseError: a process has begun to work on the run.
        OSError: a file cannot be deleted.
    """
    folder = removal.run.folder
    with contextlib.ExitStack() as stack:
        if removal.run.in_use is not None:  # also without a lock file: Windows has none while nobody works on the run
            stack.enter_context(locked(folder))
        paths = removal.paths if removal.whole else set(removal.paths) & set(read_run(folder).leftovers)  # they may be clips by now
        for path in paths:
            if path.name != LOCK_NAME:
                remove_file(path)
    if removal.whole:
        remove_file(folder / LOCK_NAME)
        with contextlib.suppress(OSError):  # something else lies in it
            folder.rmdir()


def _size_of(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
