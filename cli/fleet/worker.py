"""`worker`: a ComfyUI and beside it a Celery worker that makes one video at a time with it. What starts it has to start it again."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import socket
import sys

from celery.signals import worker_process_init
from filelock import FileLock, Timeout

from ..comfyui.server import ServerError, die_with_parent
from ..models.folders import FolderError
from ..predict.connection import find_places, make_server
from .broker import QUEUE, Broker, BrokerError, make_app
from .checks import check_broker
from .task import add_task

REFUSED = 3  # exit status
HOUR_S = 3600.0
BASE = ".wan_s2v_worker_"  # and the worker's name: its folder in the output folder


def run(options: argparse.Namespace) -> int:
    """Work until a signal, or until ComfyUI ends; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    if options.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = options.gpu
    try:
        broker = Broker.of(options)
        app = make_app(broker)
        check_broker(app, broker, options.longest_job * HOUR_S, options.consumer_timeout)
        name = options.name or socket.gethostname()
        comfyui, models, output = find_places(options)
        folder = output / f"{BASE}{name}"
        with FileLock(f"{folder}.lock", timeout=0):
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that was killed
            with make_server(comfyui, folder, models, output, ()) as server:
                add_task(app, server.url)
                app.conf.worker_soft_shutdown_timeout = options.grace
                logging.getLogger("wan_s2v").info(
                    "worker %s: ComfyUI at %s, process %d; log: %s", name, server.url, server.pid, server.log_file
                )
                app.worker_main(_arguments(name))
    except Timeout:
        return refuse(f"There is a worker {name} already that writes to {output}. Give this one another --name.")
    except (BrokerError, FolderError, ServerError) as error:
        return refuse(str(error))
    return 0


def refuse(message: str) -> int:
    """Say why nothing was done."""
    print(message, file=sys.stderr)
    return REFUSED


@worker_process_init.connect
def _end_with_the_worker(**_: object) -> None:
    """The process that works is none without the one that talks to the broker."""
    if sys.platform == "linux":
        die_with_parent()


def _arguments(name: str) -> list[str]:
    """Of Celery's worker; other pools than prefork lose the connection during a job, or wait for it at the end."""
    quiet = ["--without-gossip", "--without-mingle"]  # talk between all workers
    return ["worker", "--pool=prefork", "--concurrency=1", f"--hostname={name}", "-Q", QUEUE, "-E", "--loglevel=INFO", *quiet]
