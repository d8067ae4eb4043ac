"""How far the video is: one line that changes on a terminal, a line now and then in a log."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from ..comfyui.following import Progress as Report
from ..comfyui.following import Stage
from .graph import SAMPLER, Prompt

try:
    from ...wan_s2v_model.sampling.progress import Progress
    from ...wan_s2v_model.time_text import duration
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.sampling.progress import Progress
    from wan_s2v_model.time_text import duration

MAX_COLUMNS = 80
REDRAW_S = 1.0
LOG_EVERY_S = 60.0


class ProgressBar:
    """Shows the node that runs; while sampling also clip, step, time so far and time left.

    Args:
        prompt: the graph that runs.
        stream: where to write.
        clock: seconds.
    """

    def __init__(self, prompt: Prompt, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._prompt = prompt
        self._stream = stream or sys.stderr
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._draw = tqdm.status_printer(self._stream)
        self._stage = Stage()
        self._report: Report | None = None  # the last one of this node
        self._progress: Progress | None = None
        self._stage_start_s = clock()
        self._logged: tuple[str, float] = "", float("-inf")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._redraw_again, daemon=True)

    def on_stage(self, stage: Stage) -> None:
        """The prompt waits, or has come to another node."""
        with self._lock:
            self._enter(stage)
            self._show()

    def on_progress(self, progress: Report) -> None:
        """A node has made a step."""
        with self._lock:
            self._enter(Stage(progress.node))  # the start of the node goes unheard while a lost connection is made again
            if progress.maximum:
                self._count(progress)
            self._show()

    def _count(self, report: Report) -> None:
        steps = self._steps_per_clip() or int(report.maximum)
        clip, steps_of_clip = divmod(int(report.value), steps)
        if self._progress is None:
            self._progress = Progress(max(1, int(report.maximum) // steps), steps, clip, clock=self._clock)
        again = self._report is None or self._report.value >= report.value
        if again and not steps_of_clip and clip < self._progress.num_clips:  # the node says the number again when the next clip begins
            self._progress.begin(clip)
        else:
            self._progress.step(int(report.value))
        self._report = report

    def _steps_per_clip(self) -> int | None:
        node = self._prompt.get(self._stage.node)
        return node["inputs"]["steps"] if node is not None and node["class_type"] == SAMPLER else None

    def _enter(self, stage: Stage) -> None:
        if stage != self._stage:
            self._stage, self._report, self._progress = stage, None, None
            self._stage_start_s = self._clock()

    def line(self) -> str:
        """The present state in words, no longer than a line of the terminal."""
        columns = min(shutil.get_terminal_size().columns, MAX_COLUMNS) - 1
        if self._report is None:
            return self._title()[:columns]
        form = f"{{desc}} [{{bar}}] {{percentage:.0f}} %, {', '.join(self._times())}"
        whole = self._report.maximum
        return tqdm.format_meter(min(self._report.value, whole), whole, 0, ncols=columns, prefix=self._title(), ascii="-#", bar_format=form)

    def _title(self) -> str:
        node = self._prompt.get(self._stage.node)
        if node is None:
            jobs = self._stage.jobs_before
            return self._stage.words or (f"waiting in the queue, {jobs} {'jobs' if jobs > 1 else 'job'} before" if jobs else "queued")
        return node["_meta"]["title"] if self._progress is None or self._steps_per_clip() is None else self._progress.place()

    def _times(self) -> list[str]:
        texts = [f"{duration(self._clock() - self._stage_start_s)} elapsed"]
        left = None if self._progress is None else self._progress.seconds_left()
        return texts if left is None else [*texts, f"{duration(left)} left"]

    # --- drawing

    def _show(self) -> None:
        if self._is_terminal:
            self._draw(self.line())
        else:
            self._log()

    def _log(self) -> None:
        """A line for each node and clip, and between them now and then."""
        topic, now_s = self._title().split(",")[0], self._clock()
        if topic != self._logged[0] or now_s - self._logged[1] >= LOG_EVERY_S:
            print(self.line(), file=self._stream, flush=True)
            self._logged = topic, now_s

    def _redraw_again(self) -> None:
        while not self._stop.wait(REDRAW_S):
            with self._lock:
                self._draw(self.line())

    def __enter__(self) -> ProgressBar:
        if self._is_terminal:
            self._draw(self.line())
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._is_terminal:
            self._thread.join()
            print(file=self._stream, flush=True)
