"""Kills runs at random moments and lets them go on: the real clip loop and run folder, with networks that take no time.

Every run lives in forked processes, which share one import of torch. A process is killed from outside at some time, or at some line
of the loop or the store, or between two bytes of a file that it is writing.
"""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from wan_s2v_pack.tests.crash.stand_in_run import FINGERPRINT, NUM_CLIPS, SEED, contents, decode, encode, make_plan, sample
from wan_s2v_pack.wan_s2v_model import atomic_files, background, clip_loop, pipeline, run_store
from wan_s2v_pack.wan_s2v_model.clip_loop import finish_run
from wan_s2v_pack.wan_s2v_model.run_store import RunStore, RunStoreError

TRACED = {module.__file__ for module in (atomic_files, background, clip_loop, pipeline, run_store)}
DONE, REFUSED = 0, 3  # exit codes
MOST_KILLS = 3  # of one run, before it may end in peace

Prepare = Callable[[], Callable[[int], None]]  # arms a process; returns what is called after each clip


def live(folder: Path, prepare: Prepare, redo_from: int | None) -> int:
    """What one process does with the run."""
    torch.set_num_threads(1)
    plan = make_plan()
    after_clip = prepare()
    try:
        with RunStore.open(folder, FINGERPRINT, redo_from=redo_from, versions={"torch": "2"}) as store:
            finish_run(store, plan, SEED, sample=sample, encode=encode, decode=decode, consume=after_clip)
    except RunStoreError as error:
        if "in use by another process" not in str(error):
            raise
        return REFUSED
    return DONE


def nothing() -> Callable[[int], None]:
    return lambda clip: None


def at_line(number: int) -> Callable[[int], None]:
    """Die when so many lines of the loop and the store have been run."""
    left = [number]

    def trace(frame, event, argument):
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace if frame.f_code.co_filename in TRACED else None

    threading.settrace(trace)
    sys.settrace(trace)
    return lambda clip: None


def at_byte(clips: int, size: int) -> Callable[[int], None]:
    """Die in the middle of writing a file, `size` bytes into it, after so many more clips."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    left = [clips]

    def after_clip(_clip: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    after_clip(0)
    return after_clip


def start(folder: Path, prepare: Prepare = nothing, redo_from: int | None = None) -> int:
    """Start a process on the run; returns its id."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = live(folder, prepare, redo_from)
        finally:
            sys.settrace(None)
            os._exit(code)
    return child


def wait(child: int) -> int:
    """The exit code of a process, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclasses.dataclass
class Harness:
    """Folders of runs, and what a run that nobody disturbed looks like."""

    root: Path
    expected: dict[str, bytes] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    num_lines: int = 0  # at least as many as a run has

    def measure(self) -> None:
        """Let a run end in peace, and find out how long it takes, in seconds and in lines."""
        start_s = time.perf_counter()
        if wait(start(self.root / "reference")) != DONE:
            raise RuntimeError("the reference run failed")
        self.seconds = time.perf_counter() - start_s
        self.expected = contents(self.root / "reference")
        high = 1
        while wait(start(self.root / f"lines_{high}", partial(at_line, high))) != DONE:
            high *= 2
        self.num_lines = high

    def torture(self, seed: int) -> dict[str, int]:
        """Kill a run some times, let it end, and compare; returns how often which kind of death was died."""
        moments, folder = random.Random(seed), self.root / f"run_{seed}"
        deaths = {"signal": 0, "line": 0, "byte": 0}
        while not any(deaths.values()):  # a process may end before its moment comes
            shutil.rmtree(folder, ignore_errors=True)
            for _ in range(moments.randint(1, MOST_KILLS)):
                kind = moments.choice(sorted(deaths))
                deaths[kind] += self._kill(folder, kind, moments) < 0
        if moments.random() < 0.25 and wait(start(folder)) == DONE:
            deaths["line"] += self._kill(folder, "line", moments, redo_from=moments.randrange(NUM_CLIPS)) < 0
        if wait(start(folder)) != DONE:
            raise RuntimeError(f"seed {seed}: the run does not go on after {deaths}")
        if contents(folder) != self.expected:
            raise RuntimeError(f"seed {seed}: after {deaths} the run differs: {self._differences(folder)}")
        shutil.rmtree(folder)
        return deaths

    def start_twice(self) -> None:
        """A second start is refused while the first one works, and goes on when that one is killed."""
        folder = self.root / "twice"
        reader, writer = os.pipe()

        def hold() -> Callable[[int], None]:
            return lambda clip: (os.write(writer, b"1"), time.sleep(60))[0]

        first = start(folder, hold)
        os.read(reader, 1)  # a clip is stored
        if (code := wait(start(folder))) != REFUSED:
            raise RuntimeError(f"a second start ended with {code}")
        os.kill(first, signal.SIGKILL)
        if wait(first) != -signal.SIGKILL or wait(start(folder)) != DONE or contents(folder) != self.expected:
            raise RuntimeError(f"the run did not go on after both starts: {self._differences(folder)}")

    def _kill(self, folder: Path, kind: str, moments: random.Random, redo_from: int | None = None) -> int:
        if kind == "line":
            number = moments.randint(1, self.num_lines)
            return wait(start(folder, partial(at_line, number), redo_from))
        if kind == "byte":
            clips, size = moments.randrange(NUM_CLIPS), moments.randint(1, len(self.expected["clip_00000.safetensors"]))
            return wait(start(folder, partial(at_byte, clips, size), redo_from))
        child = start(folder, redo_from=redo_from)
        time.sleep(moments.uniform(0, self.seconds))
        os.kill(child, signal.SIGKILL)
        return wait(child)

    def _differences(self, folder: Path) -> list[str]:
        found = contents(folder)
        return sorted(name for name in {*found, *self.expected} if found.get(name) != self.expected.get(name))


def main(root: str, num_seeds: int) -> None:
    """Torture so many runs; print how many processes died of what. To be called in a process that has no other threads."""
    harness = Harness(Path(root))
    harness.measure()
    harness.start_twice()
    start_s, deaths = time.perf_counter(), {"signal": 0, "line": 0, "byte": 0}
    for seed in range(num_seeds):
        for kind, count in harness.torture(seed).items():
            deaths[kind] += count
    print(json.dumps({"seconds": round(time.perf_counter() - start_s, 1), "run_seconds": harness.seconds, "deaths": deaths}))
