"""Whether a process still does something: what is only slow, on a busy machine or a slow disk, is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from contextlib import suppress


class Patience:
    """Ends when nothing was done for some time.

    Args:
        seconds: how long. work_done: gives something that changes with the work.
    """

    def __init__(self, seconds: float, work_done: Callable[[], Hashable]) -> None:
        self._seconds, self._work_done = seconds, work_done
        self._seen, self._since = work_done(), time.monotonic()

    def is_over(self) -> bool:
        """Look whether something was done since the last look."""
        if (now := self._work_done()) != self._seen:
            self._seen, self._since = now, time.monotonic()
            return False
        return time.monotonic() - self._since >= self._seconds


def seconds_computed(pid: int) -> int:
    """Whole seconds of processor time of a process and those that it started; 0 where that cannot be asked.

    One that only waits takes hours for a second. On Windows the Python of a virtual environment only starts another one.
    """
    try:
        import psutil
    except ImportError:
        return 0
    spent = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = each.cpu_times()
                spent += times.user + times.system
    return int(spent)
