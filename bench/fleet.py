"""A fleet of 1, 2, 3 workers, each with a ComfyUI of its own: videos in a minute, and what a job costs beside its video.

    python scripts/tiny_models/make.py /tmp/models
    python bench/fleet.py redis://127.0.0.1 --models-dir /tmp/models --workers 1 2 3 --jobs 12
    python bench/fleet.py redis://127.0.0.1 --workers 1 2 4 8 --gpus --jobs 32 --job '{"steps": 20, "size": "832x480"}'

Without --gpus the workers share what there is. `overhead_s` is the median of the time from video to video of one worker, less what its
ComfyUI says that the prompt took: inputs fetched, prompt queued, states, video fetched and put. `processor_s` is what all processes of
the workers burn for a video, and `processors_busy` how busy the machine was: whether it is what limits. The first job of each worker,
which loads the models, counts in `processor_s` alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from cli.fleet.broker import Broker, make_app
from cli.fleet.job_lines import Job
from cli.fleet.states import ENDED, JobState, States
from cli.fleet.submit import queue

READY, TOOK = " ready.", re.compile(r"Prompt executed in (?:(\d+):(\d+):)?([\d.]+)")
LOOK_S = 0.2
STOP_S = 60
TINY = {
    **{"model": "wan_s2v_tiny.safetensors", "text-encoder": "umt5_tiny.safetensors", "vae": "wan_2.1_vae_tiny.safetensors"},
    **{"audio-encoder": "wav2vec2-tiny/model.safetensors", "size": "64x64", "frames": 8, "steps": 2, "guidance": 1, "duration": 1.3},
    **{"image": str(ROOT / "samples" / "sample_portrait.png"), "audio": str(ROOT / "samples" / "sample_speech.wav")},
}


class Fleet:
    """Workers at a broker, in a folder of their own, until the end of the block."""

    def __init__(self, options: argparse.Namespace, count: int, folder: Path) -> None:
        self.folder, self.names = folder, [f"bench{number}" for number in range(count)]
        self._processes = [self._start(options, number, name) for number, name in enumerate(self.names)]

    def _start(self, options: argparse.Namespace, number: int, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "cli", "worker", "--name", name, "--output-dir", str(self.folder), "--broker", options.broker]
        command += ["--results", options.results] if options.results else []
        command += ["--models-dir", str(options.models_dir)] if options.models_dir else []
        command += ["--gpu", str(number)] if options.gpus else []
        command += ["--consumer-timeout", "86400"] if options.broker.startswith("amqp") else []
        with self.log_of(name).open("wb") as log:
            variables = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def prompts_s(self, name: str) -> list[float]:
        """What the ComfyUI of a worker says of its prompts."""
        text = (self.folder / f".wan_s2v_worker_{name}" / "server.log").read_text(errors="replace")
        return [int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds) for hours, minutes, seconds in TOOK.findall(text)]

    def processor_s(self) -> float:
        """Of the workers and all that they have started, until now."""
        workers = [psutil.Process(process.pid) for process in self._processes]
        times = [process.cpu_times() for worker in workers for process in (worker, *worker.children(recursive=True))]
        return sum(taken.user + taken.system for taken in times)

    def __enter__(self) -> Fleet:
        while not all(READY in self.log_of(name).read_text(errors="replace") for name in self.names):
            if any(process.poll() is not None for process in self._processes):
                raise SystemExit("\n".join(self.log_of(name).read_text(errors="replace") for name in self.names))
            time.sleep(LOOK_S)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(STOP_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("broker")
    parser.add_argument("--results")
    parser.add_argument("--models-dir", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=12, help="of each number of workers, beside the first of each worker")
    parser.add_argument("--job", type=json.loads, default={}, help="options of a job, over the tiny ones")
    parser.add_argument("--gpus", action="store_true", help="a GPU for each worker")
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    options = parser.parse_args()
    for count in options.workers:
        with tempfile.TemporaryDirectory() as folder, Fleet(options, count, Path(folder)) as fleet:
            print(json.dumps(measure(options, fleet)), flush=True)


def measure(options: argparse.Namespace, fleet: Fleet) -> dict[str, object]:
    """Make the jobs; one row of the table."""
    broker = Broker(options.broker, options.results)
    app, stamp, count = make_app(broker), int(time.time()), len(fleet.names)
    jobs = [
        Job.of(
            {**TINY, **options.job, "seed": number, "run-name": f"bench {stamp} {number}", "output": str(fleet.folder / f"{number}.mp4")}
        )
        for number in range(count + options.jobs)
    ]
    for job in jobs:
        queue(app, broker.kind, job)
    psutil.cpu_percent()
    before_s = fleet.processor_s()
    ends_s = [made.stat().st_mtime for made in map(Path, videos(wait_for(States(app), jobs)))]
    busy, burnt_s = psutil.cpu_percent(), fleet.processor_s() - before_s
    first_s, last_s = sorted(ends_s)[count - 1], max(ends_s)
    prompts = {name: fleet.prompts_s(name) for name in fleet.names}
    return {
        "workers": count,
        "jobs": options.jobs,
        "seconds": round(last_s - first_s, 1),
        "videos_per_minute": round(60 * options.jobs / (last_s - first_s), 2),
        "prompt_s": round(statistics.median(itertools.chain.from_iterable(taken[1:] for taken in prompts.values())), 2),
        "overhead_s": round(overhead_s(ends_s, prompts), 2) if count == 1 else None,
        "processor_s": round(burnt_s / len(jobs), 2),
        "processors_busy": f"{busy:.0f} % of {os.cpu_count()}",
    }


def wait_for(states: States, jobs: Sequence[Job]) -> list[JobState]:
    while any(states.read(job.name).state not in ENDED for job in jobs):
        time.sleep(LOOK_S)
    return [states.read(job.name) for job in jobs]


def videos(made: Sequence[JobState]) -> list[str]:
    failed = [state for state in made if state.state != "SUCCESS"]
    if failed:
        raise SystemExit(f"{len(failed)} jobs were not made: {failed[0]}")
    return [state.info["video"] for state in made]


def overhead_s(ends_s: Sequence[float], prompts: dict[str, list[float]]) -> float:
    """Of one worker: from video to video, less the prompt of the later one."""
    (taken,) = prompts.values()
    return statistics.median(
        end - before - prompt for (before, end), prompt in zip(itertools.pairwise(sorted(ends_s)), taken[1:], strict=True)
    )


if __name__ == "__main__":
    main()
