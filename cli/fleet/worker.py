"""`worker`: a ComfyUI and beside it a Celery worker that makes one video at a time with it. What starts it has to start it again."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps
from celery.signals import worker_process_init, worker_shutting_down
from celery.worker import state
from filelock import FileLock, Timeout

from ..comfyui.server import ServerError, die_with_parent
from ..models.folders import FolderError
from ..predict.connection import find_places, make_server
from .broker import QUEUE, Broker, BrokerError, make_app
from .checks import check_broker, check_results
from .task import add_task

logger = logging.getLogger("wan_s2v")
REFUSED = 3  # exit status
HOUR_S = 3600.0
LOOK_S = 5.0  # between looks whether there is a job
BASE = ".wan_s2v_worker_"  # and the worker's name: its folder in the output folder
NAME = re.compile(r"\w(?:[\w.-]{0,98}\w)?")


def run(options: argparse.Namespace) -> int:
    """Work until a signal, or until ComfyUI ends; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if not hasattr(os, "fork"):
        return refuse("A worker needs Linux or macOS, as Celery's process that works is a fork. On Windows run it in WSL 2 or Docker.")
    name = options.name or socket.gethostname()
    if not NAME.fullmatch(name):
        return refuse(
            f"A worker cannot be called {name!r}. Give it a --name of letters, digits, dots, dashes and underscores, at most 100."
        )
    try:
        broker = Broker.of(options)
        app = make_app(broker)
        check_broker(app, broker, options.longest_job * HOUR_S, options.consumer_timeout)
        check_results(app, broker)
        work(app, name, options)
    except Timeout as error:
        folder = Path(error.lock_file).parent
        return refuse(f"There is a worker {name} already that writes to {folder}. Give this one another --name.")
    except (BrokerError, FolderError, ServerError) as error:
        return refuse(str(error))
    return 0


def work(app: Celery, name: str, options: argparse.Namespace) -> None:
    """Start a ComfyUI and make videos with it.

    Raises:
        Timeout: there is a worker of this name. FolderError, ServerError: ComfyUI cannot be started, or has nowhere to write to.
    """
    try:
        comfyui, models, output = find_places(options)
    except OSError as error:
        raise FolderError(
            f"{error.filename} cannot be used: {error.strerror}. Give the worker an --output-dir that it may write to."
        ) from error
    folder = output / f"{BASE}{name}"
    with FileLock(f"{folder}.lock", timeout=0):
        shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
        with make_server(comfyui, folder, models, output, ()) as server:
            add_task(app, server.url)
            worker_process_init.connect(end_with_the_worker)
            if options.grace:
                end = give_back_after(options.grace)
                worker_shutting_down.connect(end)
            if options.idle_exit is not None:
                app.steps["worker"].add(end_when_idle(options.idle_exit))
            logger.info("worker %s: ComfyUI at %s, process %d; log: %s", name, server.url, server.pid, server.log_file)
            app.worker_main(_arguments(name))


def refuse(message: str) -> int:
    """Say why nothing was done."""
    print(message, file=sys.stderr)
    return REFUSED


def give_back_after(seconds: float) -> Callable[..., None]:
    """What gives the job at work back, so many seconds after the worker was asked to end. Celery's own soft shutdown waits all of them."""

    def end(**_: object) -> None:
        worker_shutting_down.disconnect(end)
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGQUIT))
        timer.daemon = True
        timer.start()

    return end


def end_when_idle(seconds: float) -> type[bootsteps.StartStopStep]:
    """A part of Celery's worker that ends it after so many seconds without a job."""

    class EndWhenIdle(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Timer",)

        def __init__(self, parent: Any, **_: Any) -> None:
            self._busy_s = time.monotonic()
            self._look: Any = None

        def start(self, parent: Any) -> None:
            self._look = parent.timer.call_repeatedly(min(LOOK_S, seconds), self.look)

        def stop(self, parent: Any) -> None:
            if self._look is not None:
                self._look.cancel()

        def look(self) -> None:
            if state.reserved_requests:
                self._busy_s = time.monotonic()
            elif time.monotonic() - self._busy_s >= seconds:
                state.should_stop = 0  # Celery ends as it does after SIGINT

    return EndWhenIdle


def end_with_the_worker(**_: object) -> None:
    """The process that works is none without the one that talks to the broker."""
    if sys.platform == "linux":
        die_with_parent()


def _arguments(name: str) -> list[str]:
    """Of Celery's worker; other pools than prefork lose the connection during a job, or wait for it at the end."""
    quiet = ["--without-gossip", "--without-mingle"]  # talk between all workers
    return ["worker", "--pool=prefork", "--concurrency=1", f"--hostname={name}", "-Q", QUEUE, "-E", "--loglevel=INFO", *quiet]
