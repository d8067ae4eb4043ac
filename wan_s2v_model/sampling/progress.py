"""How far a run is, in a line: which clip and step, for how long already, for how long still; and that line where ComfyUI was started."""

import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from types import TracebackType
from typing import NamedTuple, TextIO

from tqdm import tqdm

from ..constants import VIDEO_FPS
from ..time_text import duration, seconds_of

LINE = re.compile(r"(.+?), [\d:]+ elapsed(?:, ([\d:]+) left)?")
MAX_COLUMNS = 80  # of the line on a terminal
HEARTBEAT_S = 60.0
LOOK_AGAIN_S = 1.0

logger = logging.getLogger("wan_s2v")


class Report(NamedTuple):
    """A report of a step: when it came, of which clip, and which share of the clip's sampling was done then."""

    time_s: float
    clip: int
    share: float


class Progress:
    """Counts the steps of the clips that are still to be made, and estimates the time that they take.

    Args:
        first_clip: clips that are there already; they cost this run no time and do not count in its pace.
        calls_of_steps: model calls in each step of a clip, or what else is proportional to its time, where steps take unequally long.
        clock: seconds from a clock that is never set, so that changed clocks and time zones do no harm.
        fps: frame rate of the video.
    """

    def __init__(
        self,
        num_clips: int,
        steps_per_clip: int,
        first_clip: int = 0,
        calls_of_steps: Sequence[float] = (),
        clock: Callable[[], float] = time.monotonic,
        fps: int = VIDEO_FPS,
    ):
        self.num_clips = num_clips
        self.steps_per_clip = steps_per_clip
        self.first_clip = first_clip
        self._clock = clock
        self._fps = fps
        self._start_s = clock()
        calls = list(accumulate(calls_of_steps or [1] * steps_per_clip, initial=0))  # after so many steps of a clip
        self._shares = [done / calls[-1] for done in calls]
        self._done = first_clip * steps_per_clip
        self._begins = True  # no step of the present clip is done
        self._first: Report | None = None
        self._first_of_clip: Report | None = None
        self._latest: Report | None = None
        self._sampled_s = self._sampled_share = 0.0  # between steps of the same clip
        self._phase = ""

    @property
    def clip(self) -> int:
        """The clip that is sampled or decoded."""
        return (self._done if self._begins else self._done - 1) // self.steps_per_clip

    def begin(self, clip: int) -> None:
        """The sampling of a clip begins, perhaps once more."""
        self._done, self._begins, self._latest = clip * self.steps_per_clip, True, None
        if self._first is not None and self._first.clip == clip:
            self._first = None
        if self._first_of_clip is not None and self._first_of_clip.clip == clip:
            self._first_of_clip = None

    def step(self, done: int) -> None:
        """So many steps of the whole run are done."""
        self._done, self._begins = done, False
        report = Report(self._clock(), self.clip, self._shares[done - self.clip * self.steps_per_clip])
        if self._latest is not None and self._latest.clip == report.clip:
            self._sampled_s += report.time_s - self._latest.time_s
            self._sampled_share += report.share - self._latest.share
        if self._first_of_clip is None or self._first_of_clip.clip != report.clip:
            self._first_of_clip = report
        self._first = self._first or report
        self._latest = report

    @contextmanager
    def phase(self, words: str) -> Iterator[None]:
        """What is done now beside the steps, e.g. decoding; `place` says it."""
        self._phase = words
        try:
            yield
        finally:
            self._phase = ""

    def line(self) -> str:
        """What to show now: clip 12 of 720, step 17/40, 1:02:03 elapsed, 4:05:06 left."""
        text = f"{self.place()}, {self._elapsed()} elapsed"
        left = self.seconds_left()
        return text if left is None else f"{text}, {duration(left)} left"

    def place(self) -> str:
        """The clip and what is done with it: clip 12 of 720, step 17/40, or after its last step, decoding, unless a phase says more."""
        steps = self._done - self.clip * self.steps_per_clip
        doing = "decoding" if steps == self.steps_per_clip else f"step {steps}/{self.steps_per_clip}"
        return f"{clip_place(self.clip, self.num_clips)}, {self._phase or doing}"

    def seconds_left(self) -> float | None:
        """Until the end of the last clip; None before two steps of a clip, or one of two clips.

        From the time of a clip with all that it costs beside its steps, once a second one is sampled; until then from that of the steps.
        """
        first, current = self._first, self._first_of_clip
        if first is None or current is None or (not self._sampled_share and current.clip == first.clip):
            return None
        sampling_s = self._sampled_s / self._sampled_share if self._sampled_share else 0.0
        first_start_s, start_s = (report.time_s - report.share * sampling_s for report in (first, current))
        clips = current.clip - first.clip
        per_clip_s = (start_s - first_start_s) / clips if clips else sampling_s
        return max(0.0, (self.num_clips - current.clip) * per_clip_s - (self._clock() - start_s))

    def end(self, num_frames: int) -> str:
        """What to show at the end: 113 frames, 7.06 s, made in 18:05."""
        made = self.num_clips - self.first_clip
        part = f"{made} of {self.num_clips} clips " if self.first_clip else ""
        return f"{video_size(num_frames, self._fps)}, {part}made in {self._elapsed()}"

    def stop(self) -> str:
        """What to show where a run is cancelled or fails: stopped at clip 2 of 4, step 17/40, after 1:02:03."""
        return f"stopped at {self.place()}, after {self._elapsed()}"

    def _elapsed(self) -> str:
        return duration(self._clock() - self._start_s)


class Line(NamedTuple):
    """What the command line shows of a line of the sampler's node: the place, and the seconds left where they were known."""

    place: str
    left_s: float | None


def read_line(text: str) -> Line | None:
    """Read what `Progress.line` wrote, with whatever stands behind it; None for any other text."""
    found = LINE.match(text)
    return found and Line(found[1], seconds_of(found[2]) if found[2] else None)


def video_size(num_frames: int, fps: int = VIDEO_FPS) -> str:
    """The length of a video: 113 frames, 7.06 s."""
    return f"{num_frames} frames, {num_frames / fps:.2f} s"


def clip_place(clip: int, num_clips: int) -> str:
    """A clip as it is shown, counted from 1: clip 8 of 12.

    Args:
        clip: counted from 0, as everywhere in the code and in the names of files.
    """
    return f"clip {clip + 1} of {num_clips}"


class ProgressLog(logging.Handler):
    """Shows a line of text where ComfyUI was started, also while nobody calls: drawn over on a terminal, now and then in a log.

    As a handler of the pack's messages it makes room on the terminal for each of them.

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
