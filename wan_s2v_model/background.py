"""Work beside the caller: one task at a time, nothing piles up, no error is lost."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

logger = logging.getLogger("wan_s2v")


class Background:
    """A thread for tasks of which at most one runs.

    Leaving the context waits for it, after a cancel too, and raises what it raised, except in place of an interrupt (which is logged).
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"wan_s2v_{name}")
        self._pending: Future[None] | None = None

    def run(self, task: Callable[[], None]) -> None:
        """Start a task, once the one before it has ended; raise what that one raised."""
        self._wait()
        self._pending = self._thread.submit(task)

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        if kind is None or issubclass(kind, Exception):
            self._wait()
        elif self._pending is not None and (failure := self._pending.exception()) is not None:
            logger.error("%s", failure)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
