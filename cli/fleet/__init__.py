"""`worker`, `submit` and `jobs`: many videos on many machines, by Celery. What they need beside the pack is in requirements-fleet.txt."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = Path(__file__).resolve().parents[2] / "requirements-fleet.txt"
NOT_INSTALLED = 3  # exit status
WORKER = """Make the videos that others submit, one after the other, with a ComfyUI of its own.

One worker for each GPU, or group of GPUs. Ctrl-C and SIGTERM give a job that is not finished back to the queue; its clips are kept."""
SUBMIT = """Queue videos: each line of a file is a JSON object with the options of `predict`, beside priority, deadline and retries.

Nothing is queued unless all lines are right. The same line twice is the same job."""
JOBS = """Look after the jobs of a fleet."""
ACTIONS = {
    "list": "what became of each job",
    "cancel": "take jobs from the queue, or stop them where they run; finished clips are kept",
    "retry": "queue jobs again that failed, were cancelled or got lost",
    "dead": "what failed as often as it may, with the reason",
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the three commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    worker = commands.add_parser("worker", help="make videos of a fleet's queue", description=WORKER, formatter_class=raw)
    _add_broker(worker)
    _add_worker(worker)
    worker.set_defaults(run=_lazily("worker"))
    submit = commands.add_parser("submit", help="queue videos for a fleet", description=SUBMIT, formatter_class=raw)
    _add_broker(submit)
    submit.add_argument("file", metavar="FILE", help="one job a line; - reads the standard input")
    submit.add_argument("--wait", action="store_true", help="show a bar for each job until all have ended")
    submit.add_argument("--json", action="store_true", help="print what was queued, or with --wait what became of it, as JSON")
    submit.set_defaults(run=_lazily("submit"))
    jobs = commands.add_parser("jobs", help="list, cancel and retry jobs of a fleet", description=JOBS, formatter_class=raw)
    actions = jobs.add_subparsers(title="commands", metavar="ACTION", required=True, dest="action")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _add_broker(action)
        if name in ("cancel", "retry"):
            action.add_argument("names", nargs="+", metavar="NAME")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=_lazily("jobs"))


def _add_broker(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("broker")
    group.add_argument("--broker", metavar="URL", default=os.environ.get("WAN_S2V_BROKER"),
                       help="amqp://USER:PASSWORD@HOST, redis://HOST, or a folder to try it on one machine (WAN_S2V_BROKER)")  # fmt: skip
    group.add_argument("--results", metavar="URL", default=os.environ.get("WAN_S2V_RESULTS"),
                       help="where the state of jobs is kept: redis://HOST, or a folder that all machines share (default: "
                       "WAN_S2V_RESULTS, else the broker where that is Redis or a folder)")  # fmt: skip
    group.add_argument("--redelivery-after", type=float, metavar="S", default=120.0,
                       help="seconds after which Redis gives the job of a lost worker to another one (default: 120)")  # fmt: skip


def _add_worker(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("worker")
    group.add_argument("--name", metavar="NAME", help="of this worker, unlike all others (default: the name of the machine)")
    group.add_argument("--gpu", metavar="N[,N]", help="let its ComfyUI see these GPUs only")
    group.add_argument("--comfyui", type=Path, metavar="DIR", help="ComfyUI's folder, as for predict")
    group.add_argument("--models-dir", type=Path, metavar="DIR", help="models folder, where it is not in ComfyUI's folder")
    group.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for runs and videos, shared by all workers, so that "
                       "another one goes on with a run (default: ComfyUI's output folder)")  # fmt: skip
    group.add_argument("--longest-job", type=float, metavar="HOURS", default=24.0,
                       help="a broker that takes jobs away earlier is refused (default: 24)")  # fmt: skip
    group.add_argument("--consumer-timeout", type=float, metavar="S",
                       help="what consumer_timeout of a RabbitMQ before 3.12 is set to, where rabbitmqctl cannot be asked")  # fmt: skip
    group.add_argument("--grace", type=float, metavar="S", default=0.0,
                       help="when it is asked to end: seconds for the job at work, before it is given back (default: 0)")  # fmt: skip
    group.add_argument("--idle-exit", type=float, metavar="S", help="end after so many seconds without a job, where workers are "
                       "started as they are needed")  # fmt: skip


def _lazily(command: str) -> Callable[[argparse.Namespace], int]:
    """The command, whose module needs Celery."""

    def run(options: argparse.Namespace) -> int:
        with _environment(_variables(options)):
            try:
                import celery  # noqa: F401
                import fsspec  # noqa: F401
            except ImportError as error:
                print(f"{error}. A fleet needs packages of its own: python -m pip install -r {NEEDED}", file=sys.stderr)
                return NOT_INSTALLED
            from . import jobs, submit, worker

            return {"jobs": jobs, "submit": submit, "worker": worker}[command].run(options)

    return run


def _variables(options: argparse.Namespace) -> dict[str, str]:
    """For Celery, which reads it when it is imported: give the job back at SIGTERM, or wait. And for ComfyUI: the GPUs."""
    gpus = {"CUDA_VISIBLE_DEVICES": options.gpu} if getattr(options, "gpu", None) else {}
    return {"REMAP_SIGTERM": "" if getattr(options, "grace", 0) else "SIGQUIT", **gpus}


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Change variables for this process and those that it starts, and change them back."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
