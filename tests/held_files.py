"""Files that somebody else has open, as Windows tells of them: they cannot be renamed or removed until he lets go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

SHARING_VIOLATION = 32


def held(path: object) -> PermissionError:
    error = PermissionError(errno.EACCES, "The process cannot access the file", str(path))
    error.winerror = SHARING_VIOLATION
    return error


class HeldFiles:
    """Makes the first attempts to rename or remove each file fail; `attempts` counts the refusals by file name."""

    def __init__(self, patch: pytest.MonkeyPatch, times: float) -> None:
        self.times = times
        self.attempts: dict[str, int] = {}
        for name in ("replace", "unlink"):
            patch.setattr(os, name, self._refusing(getattr(os, name)))

    def _refusing(self, function):
        def call(path, *others, **options):
            name = Path(path).name
            is_there = os.path.lexists(path) and not name.endswith(".lock")  # Windows removes those when they are released
            if is_there and self.attempts.get(name, 0) < self.times:
                self.attempts[name] = self.attempts.get(name, 0) + 1
                raise held(path)
            if is_there:
                self.attempts[name] = 0  # the next time it is held anew
            return function(path, *others, **options)

        return call
