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
from ..comfyui.following import Stage, Text
from .graph import SAMPLERS, Prompt

try:
    from ...wan_s2v_model.sampling.progress import Line, Progress, read_line
    from ...wan_s2v_model.time_text import duration
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.sampling.progress import Line, Progress, read_line
    from wan_s2v_model.time_text import duration

MAX_COLUMNS = 80
LOOK_AGAIN_S = 1.0
LOG_EVERY_S = 60.0


class ProgressBar:
    """Shows the node that runs and the time so far; while sampling the clip, the step and the time left that the node tells.

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
        self._progress: Progress | None = None  # of a node that does not tell the time left
        self._told: tuple[Line, float] | None = None  # by the sampler, and when
        self._stage_start_s = clock()
        self._logged: tuple[str, float] = "", float("-inf")
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show_again, name="wan_s2v_progress", daemon=True)

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

    def on_text(self, text: Text) -> None:
        """A node shows a text; that of the sampler says where it is and how long it still takes. It is drawn next time."""
        line = read_line(text.text)
        if line is not None and self._is_sampler(text.node):
            with self._lock:
                self._enter(Stage(text.node))
                self._told = line, self._clock()

    def _count(self, report: Report) -> None:
        done, steps = int(report.value), int(report.maximum)
        if not self._is_sampler(report.node):
            if self._progress is None or self._progress.steps_per_clip != steps:
                self._progress = Progress(1, steps, clock=self._clock)
            if done:
                self._progress.step(min(done, steps))
        self._report = report

    def _is_sampler(self, node: str) -> bool:
        return node in self._prompt and self._prompt[node]["class_type"] in SAMPLERS

    def _enter(self, stage: Stage) -> None:
        if stage != self._stage:
            self._stage, self._report, self._progress, self._told = stage, None, None, None
            self._stage_start_s = self._clock()

    def line(self) -> str:
        """The present state in words, no longer than a line of the terminal."""
        columns = min(shutil.get_terminal_size().columns, MAX_COLUMNS) - 1
        if self._report is None:
            is_new = self._told is None and self._clock() - self._stage_start_s < 1
            return ", ".join([self._title(), *([] if is_new else self._times())])[:columns]
        form = f"{{desc}} [{{bar}}] {{percentage:.0f}} %, {', '.join(self._times())}"
        whole = self._report.maximum
        return tqdm.format_meter(min(self._report.value, whole), whole, 0, ncols=columns, prefix=self._title(), ascii="-#", bar_format=form)

    def _title(self) -> str:
        node = self._prompt.get(self._stage.node)
        if node is None:
            jobs = self._stage.jobs_before
            return self._stage.words or (f"waiting in the queue, {jobs} {'jobs' if jobs > 1 else 'job'} before" if jobs else "queued")
        return node["_meta"]["title"] if self._told is None else self._told[0].place

    def _times(self) -> list[str]:
        texts = [f"{duration(self._clock() - self._stage_start_s)} elapsed"]
        left = self._seconds_left()
        return texts if left is None else [*texts, f"{duration(left)} left"]

    def _seconds_left(self) -> float | None:
        if self._told is None:
            return None if self._progress is None else self._progress.seconds_left()
        line, told_s = self._told
        return None if line.left_s is None else max(0.0, line.left_s - (self._clock() - told_s))

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

    def _show_again(self) -> None:
        while not self._stop.wait(LOOK_AGAIN_S):
            with self._lock:
                self._show()

    def __enter__(self) -> ProgressBar:
        if self._is_terminal:
            self._draw(self.line())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._is_terminal:
            print(file=self._stream, flush=True)
