"""The progress of a run where ComfyUI was started: one line that is drawn over on a terminal, a line now and then in a log."""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

MAX_COLUMNS = 80
HEARTBEAT_S = 60.0

logger = logging.getLogger("wan_s2v")


class ProgressLog(logging.Handler):
    """Shows texts. As a handler of the pack's messages it makes room on the terminal for each of them.

    Args:
        stream: where the log goes.
        clock: seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._draw = tqdm.status_printer(self._stream)
        self._clock = clock
        self._logged_s = clock()

    def show(self, text: str) -> None:
        """Draw the text over the last one on a terminal; log it if nothing was logged for a minute elsewhere."""
        if self._is_terminal:
            self.acquire()
            try:
                self._draw(text[: min(shutil.get_terminal_size().columns, MAX_COLUMNS) - 1])
            finally:
                self.release()
        elif self._clock() - self._logged_s >= HEARTBEAT_S:
            logger.info("%s", text)

    def emit(self, record: logging.LogRecord) -> None:
        """Clear the line in front of a message, and remember when there was one."""
        self._logged_s = self._clock()
        self._clear()

    def _clear(self) -> None:
        if self._is_terminal:
            self._draw("")
            self._stream.write("\r")

    def __enter__(self) -> "ProgressLog":
        logger.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        logger.removeHandler(self)
        self._clear()
