"""The progress of a run where ComfyUI was started: one line that is drawn over on a terminal, a line now and then in a log."""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

MAX_COLUMNS = 80
HEARTBEAT_S = 60.0
LOOK_AGAIN_S = 1.0

logger = logging.getLogger("wan_s2v")


class ProgressLog(logging.Handler):
    """Shows a line of text, also while nobody calls. As a handler of the pack's messages it makes room on the terminal for each of them.

    Args:
        line: what to show; is called in a thread of its own, too, which lives as long as the `with` block.
        stream: where the log goes.
        clock: seconds.
    """

    def __init__(self, line: Callable[[], str], stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._line = line
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._draw = tqdm.status_printer(self._stream)
        self._clock = clock
        self._logged_s = clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show_again, name="wan_s2v_progress", daemon=True)

    def show(self) -> None:
        """Draw the line over the last one on a terminal; log it if nothing was logged for a minute elsewhere."""
        self.acquire()
        try:
            if self._is_terminal:
                self._draw(self._line()[: min(shutil.get_terminal_size().columns, MAX_COLUMNS) - 1])
            elif self._clock() - self._logged_s >= HEARTBEAT_S:
                logger.info("%s", self._line())
        finally:
            self.release()

    def _show_again(self) -> None:
        while not self._stop.wait(LOOK_AGAIN_S):
            self.show()

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
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        logger.removeHandler(self)
        self._clear()
