"""Kills runs at random moments and lets them go on: the real nodes, with tiny models, from the sound to the video file.

Every run lives in forked processes, which share one import of ComfyUI and one copy of the models. A process is killed from outside at some
time, or at some line of the pack's loop, store and writers, or between two bytes of a file that it is writing.
"""

import dataclasses
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import av
from wan_s2v_pack.tests.crash.tiny_run import TinyLiveRun, TinyRun, make_models
from wan_s2v_pack.wan_s2v_model import files
from wan_s2v_pack.wan_s2v_model.media import video_writer
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.runs import clips, finish, live_video, manifest, store
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError
from wan_s2v_pack.wan_s2v_model.sampling import clip_loop, live, live_clips

COMFYUI_PREVIEW = "ComfyUI_temp_"  # named by chance; ComfyUI empties that folder when it starts
REPEATABLE = [name for name, video_format in FORMATS.items() if video_format.video_codec != "hevc"]  # of so small pictures
TRACED = {m.__file__ for m in (files, clip_loop, clips, finish, live, live_clips, live_video, manifest, store, video_writer)}
DONE, REFUSED = 0, 3  # exit codes
MOST_KILLS = 3  # of one run, before it may end in peace
KINDS = ("signal", "line", "byte")
LIVE_VIDEO = manifest.LIVE_VIDEO_NAME  # ends where its process ended; nothing depends on it

AfterClip = Callable[[int | None], None]
Prepare = Callable[[], AfterClip]  # arms a process; returns what is called after each clip, and with None when the video is saved


def nothing() -> AfterClip:
    return lambda clip: None


def at_line(number: int) -> AfterClip:
    """Die when so many lines of the loop, the store and the writers have been run."""
    trace_lines(lambda lines: os.kill(os.getpid(), signal.SIGKILL) if lines == number else None)
    return lambda clip: None


def count_lines(pipe: int) -> AfterClip:
    """Write the number of those lines into a pipe when the video is saved."""
    lines = [0]
    trace_lines(lambda count: lines.__setitem__(0, count))
    return lambda clip: os.write(pipe, str(lines[0]).encode()) if clip is None else None


def trace_lines(at_line: Callable[[int], None]) -> None:
    """Call a function with the number of each line, before it runs."""
    count = [0]

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            count[0] += 1
            at_line(count[0])
        return trace

    threading.settrace(trace)
    sys.settrace(trace)


def at_byte(num_clips: int, size: int) -> AfterClip:
    """Die in the middle of writing a file, `size` bytes into it, after so many more clips."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    left = [num_clips]

    def after_clip(_clip: int | None) -> None:
        left[0] -= 1
        if left[0] < 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    after_clip(0)
    return after_clip


def call_after_clips(after_clip: AfterClip) -> None:
    """Let the store of this process call a function behind each clip that it has written."""
    write_clip = RunStore.write_clip

    def write_and_call(store: RunStore, index: int, **tensors) -> None:
        write_clip(store, index, **tensors)
        after_clip(index)

    RunStore.write_clip = write_and_call


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one run and its video are.

    Attributes:
        output: ComfyUI's output folder. video_format: key of FORMATS.
    """

    output: Path
    video_format: str

    @property
    def run(self) -> Path:
        return self.output / "wan_s2v_runs" / "run"

    @property
    def video(self) -> Path:
        return self.output / f"video_00001_.{FORMATS[self.video_format].container}"

    def names(self) -> set[str]:
        """All files below the output folder, the temporary ones too, but the video in progress and what ComfyUI keeps to show."""
        files = (path for path in self.output.rglob("*") if path.is_file() and path.name != LIVE_VIDEO)
        return {path.relative_to(self.output).as_posix() for path in files if not path.name.startswith(COMFYUI_PREVIEW)}

    def stored(self) -> dict[str, str]:
        """Hash of every file of the run but its video in progress."""
        files = (path for path in self.run.iterdir() if path.name != LIVE_VIDEO)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def played(self) -> dict[str, str]:
        """Number and hash of all frames and of all sound of the video, as decoded, with their times."""
        counts, digests = {"video": 0, "audio": 0}, {"video": hashlib.sha256(), "audio": hashlib.sha256()}
        with av.open(str(self.video)) as container:
            for stream in container.streams:
                stream.thread_count = 1  # this process is going to fork
            for frame in container.decode():
                is_picture = isinstance(frame, av.VideoFrame)
                kind, values = ("video", frame.to_ndarray(format="rgb24")) if is_picture else ("audio", frame.to_ndarray())
                counts[kind] += 1 if is_picture else frame.samples
                digests[kind].update(f"{frame.pts} {frame.time_base}".encode() + values.tobytes())
        return {kind: f"{counts[kind]} {digest.hexdigest()}" for kind, digest in digests.items()}


@dataclasses.dataclass
class Harness:
    """Folders of runs, and what a run that nobody disturbed looks like."""

    root: Path
    tiny: TinyRun
    formats: Sequence[str]
    expected: dict[str, tuple[set[str], dict[str, str], dict[str, str]]] = dataclasses.field(default_factory=dict)  # by format
    seconds: float = 0.0
    num_lines: int = 0
    clip_size: int = 0

    def measure(self) -> None:
        """Let a run end in peace for each format, and find out how long it takes, in seconds and in lines."""
        for index, name in enumerate(self.formats):
            place, start_s = Place(self.root / f"reference_{index}", name), time.perf_counter()
            if self.wait(self.start(place)) != DONE:
                raise RuntimeError("the reference run failed")
            self.seconds = time.perf_counter() - start_s
            self.expected[name] = place.names(), place.stored(), place.played()
            if not self.expected[name][2]["video"].startswith(f"{self.tiny.num_frames} "):
                raise RuntimeError(f"the video of the reference run is not whole: {self.expected[name][2]}")
        self.clip_size = (place.run / "clip_00000.safetensors").stat().st_size
        reader, writer = os.pipe()
        self.wait(self.start(Place(self.root / "lines", self.formats[0]), partial(count_lines, writer)))
        self.num_lines = int(os.read(reader, 20))

    def torture(self, seed: int) -> dict[str, int]:
        """Kill a run some times, let it end, and compare; returns how often which kind of death was died."""
        moments = random.Random(seed)
        place = Place(self.root / f"run_{seed}", self.formats[seed % len(self.formats)])
        deaths = dict.fromkeys(KINDS, 0)
        while not any(deaths.values()):  # a process may end before its moment comes
            shutil.rmtree(place.output, ignore_errors=True)
            for _ in range(moments.randint(1, MOST_KILLS)):
                kind = moments.choice(KINDS)
                deaths[kind] += self._kill(place, kind, moments) < 0
        if moments.random() < 0.25:
            deaths["line"] += self._kill(place, "line", moments, redo_from=moments.randrange(self.tiny.num_clips)) < 0
        for video in place.output.glob(f"video_?????_{place.video.suffix}"):  # of processes that had ended before their moment came
            video.unlink()
        for part in place.output.glob("*.part.*"):  # who comes within seconds takes the next number
            os.utime(part, (0, 0))
        if self.wait(self.start(place)) != DONE:
            raise RuntimeError(f"seed {seed}: the run does not go on after {deaths}")
        if difference := self._difference(place):
            raise RuntimeError(f"seed {seed}: after {deaths} the run differs: {difference}")
        shutil.rmtree(place.output)
        return deaths

    def start_twice(self) -> None:
        """A second start is refused while the first one works, and goes on when that one is killed."""
        place = Place(self.root / "twice", self.formats[0])
        reader, writer = os.pipe()

        def hold() -> AfterClip:
            return lambda clip: (os.write(writer, b"1"), time.sleep(600))[0]

        first = self.start(place, hold)
        os.read(reader, 1)  # a clip is stored
        if (code := self.wait(self.start(place))) != REFUSED:
            raise RuntimeError(f"a second start ended with {code}")
        os.kill(first, signal.SIGKILL)
        if self.wait(first) != -signal.SIGKILL or self.wait(self.start(place)) != DONE:
            raise RuntimeError("the run did not go on after both starts")
        if difference := self._difference(place):
            raise RuntimeError(f"after both starts the run differs: {difference}")

    def start(self, place: Place, prepare: Prepare = nothing, redo_from: int = -1) -> int:
        """Start a process on a run; returns its id."""
        place.output.mkdir(exist_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = self._live(place, prepare, redo_from)
            finally:
                sys.settrace(None)
                os._exit(code)
        return child

    @staticmethod
    def wait(child: int) -> int:
        """The exit code of a process, or minus the number of the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _live(self, place: Place, prepare: Prepare, redo_from: int) -> int:
        """What one process does: the whole graph."""
        after_clip = prepare()
        call_after_clips(after_clip)
        try:
            self.tiny.render(
                place.output,
                run_name="run",
                video_format=place.video_format,
                redo_from_clip=0 if redo_from is None or redo_from < 0 else redo_from + 1,
            )
        except RunStoreError as error:
            if "in use by another process" not in str(error):
                raise
            return REFUSED
        after_clip(None)
        return DONE

    def _kill(self, place: Place, kind: str, moments: random.Random, redo_from: int = -1) -> int:
        if kind == "line":
            number = moments.randint(1, self.num_lines)
            return self.wait(self.start(place, partial(at_line, number), redo_from))
        if kind == "byte":
            num_clips, size = moments.randint(0, self.tiny.num_clips), round(self.clip_size ** moments.random())
            return self.wait(self.start(place, partial(at_byte, num_clips, size), redo_from))
        child = self.start(place, redo_from=redo_from)
        time.sleep(moments.uniform(0, self.seconds))
        os.kill(child, signal.SIGKILL)
        return self.wait(child)

    def _difference(self, place: Place) -> str:
        names, stored, played = self.expected[place.video_format]
        if place.names() != names:
            return f"other files: {sorted(place.names() ^ names)}"
        if place.stored() != stored:
            return f"other content: {sorted(name for name, digest in place.stored().items() if stored[name] != digest)}"
        return "" if place.played() == played else f"another video: {place.played()}, not {played}"


def main(root: str, first_seed: int, num_seeds: int, is_live: bool = False) -> None:
    """Torture so many runs, live ones or others; print how many processes died of what. The process has to have no other threads."""
    models = Path(root) / "models"
    make_models(models)
    kind, formats = (TinyLiveRun, REPEATABLE[:1]) if is_live else (TinyRun, REPEATABLE)
    harness = Harness(Path(root), kind.load(models), formats)
    harness.measure()
    if not is_live:
        harness.start_twice()
    start_s, deaths = time.perf_counter(), dict.fromkeys(KINDS, 0)
    for seed in range(first_seed, first_seed + num_seeds):
        for kind, count in harness.torture(seed).items():
            deaths[kind] += count
    seconds = round(time.perf_counter() - start_s, 1)
    print(json.dumps({"seconds": seconds, "run_seconds": round(harness.seconds, 2), "lines": harness.num_lines, "deaths": deaths}))
