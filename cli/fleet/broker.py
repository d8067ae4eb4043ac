"""The broker and where states are kept, as Celery is told of them. Every setting was tried with killed workers: docs/adr/0014-celery.md."""

from __future__ import annotations

import argparse
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from celery import Celery
from celery.backends.filesystem import FilesystemBackend
from kombu import Exchange, Queue
from kombu.utils.encoding import ensure_bytes

try:
    from ...wan_s2v_model.files import replace
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import replace

QUEUE, DEAD = "wan_s2v", "wan_s2v.dead"
TASK = "wan_s2v.make_video"
DEADLINE = "wan_s2v_deadline"  # header of a message: not begun after this time, as ISO 8601
HIGHEST_PRIORITY = 9
USUAL_PRIORITY = 4
REDIS_STEPS = [0, 3, 6, 9]  # its lists; the smaller number goes first
QUEUE_TIMEOUT_MS = 30 * 86_400_000  # of our queue, from RabbitMQ 3.12 on
KEPT_S = 30 * 86_400  # states; without one a job reads as if it were waiting
POLL_S = 0.2  # of a folder
AMQP, REDIS, FOLDER = "RabbitMQ", "Redis", "a folder"
KINDS = {"amqp": AMQP, "amqps": AMQP, "pyamqp": AMQP, "redis": REDIS, "rediss": REDIS, "file": FOLDER, "": FOLDER}


class BrokerError(Exception):
    """The broker cannot be used, with what to do."""


@dataclass(frozen=True)
class Broker:
    """Where jobs and their states are.

    Attributes:
        url, results: as the user gives them. redelivery_s: Redis only, see `--redelivery-after`.
    """

    url: str
    results: str | None = None
    redelivery_s: float = 120.0

    @classmethod
    def of(cls, options: argparse.Namespace) -> Broker:
        if not options.broker:
            raise BrokerError(
                "No broker is named. Give --broker or set WAN_S2V_BROKER, e.g. redis://127.0.0.1, amqp://127.0.0.1 or a folder."
            )
        return cls(options.broker, options.results, options.redelivery_after)

    @property
    def kind(self) -> str:
        """AMQP, REDIS or FOLDER."""
        scheme = scheme_of(self.url)
        if scheme not in KINDS:
            raise BrokerError(f"--broker must begin with amqp:// or redis://, or be a folder; got {scheme}://.")
        return KINDS[scheme]

    @property
    def place(self) -> str:
        """For messages: without user and password."""
        return _place_of(self.url)

    @property
    def place_of_results(self) -> str:
        """As `place`."""
        return _place_of(self.results or self.url)

    @property
    def folder(self) -> Path:
        return folder_of(self.url)


class FolderOfStates(FilesystemBackend):
    """Celery's states in a folder, each a file that is there whole or not at all: one that is half written reads as no job."""

    def set(self, key: str | bytes, value: str | bytes) -> None:
        path = Path(os.fsdecode(self._filename(ensure_bytes(key))))
        partial = path.with_name(f".{uuid.uuid4().hex}.part")
        partial.write_bytes(ensure_bytes(value))
        replace(partial, path)


def scheme_of(place: str) -> str:
    """Of a URL; none of a folder, also where its path begins with the letter of a disk of Windows."""
    head, separator, _ = place.partition("://")
    scheme = head.lower() if separator else urlsplit(place).scheme
    return scheme if len(scheme) > 1 else ""


def _place_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2] or url


def make_app(broker: Broker) -> Celery:
    """Celery, ready to send and to work."""
    app = Celery("wan_s2v", broker=_url_of(broker), backend=_backend_of(broker), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_acks_on_failure_or_timeout=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_enable_remote_control=broker.kind != FOLDER,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(broker),
        result_expires=KEPT_S,
        result_extended=True,
        result_backend_always_retry=True,
        task_default_queue=QUEUE,
        task_queues=[_queue(broker)],  # workers read all that stand here
        task_create_missing_queues=True,
    )
    return app


def priority_for(kind: str, priority: int) -> int:
    """0 to 9, of which 9 goes first -> the number that this broker takes for it."""
    return HIGHEST_PRIORITY - priority if kind == REDIS else priority


def folder_of(url: str) -> Path:
    """The folder of a path or a file URL."""
    return Path(url2pathname(urlsplit(url).path) if url.startswith("file:") else url).expanduser().resolve()


def _url_of(broker: Broker) -> str:
    return "filesystem://" if broker.kind == FOLDER else broker.url


def _backend_of(broker: Broker) -> str:
    place = broker.results or (broker.url if broker.kind != AMQP else None)
    if place is None:
        raise BrokerError("RabbitMQ keeps no states of jobs. Give --results or set WAN_S2V_RESULTS: redis://HOST, or a shared folder.")
    kind = scheme_of(place)
    if kind not in ("redis", "rediss", "file", ""):
        raise BrokerError(f"--results must begin with redis://, or be a shared folder; got {kind}://.")
    if kind.startswith("redis"):
        return place
    folder = folder_of(place) / "states"
    folder.mkdir(parents=True, exist_ok=True)
    return f"{__name__}:{FolderOfStates.__name__}+file://{folder.as_posix()}"


def _transport_options(broker: Broker) -> dict[str, object]:
    if broker.kind == REDIS:
        return {
            "visibility_timeout": broker.redelivery_s,
            "priority_steps": REDIS_STEPS,
            "queue_order_strategy": "priority",
            "unacked_restore_interval": 2,  # seconds; else a lost job is looked for every 100 s or so
            "unacked_restore_throttle": 1,
        }
    if broker.kind == FOLDER:
        names = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "processed_folder": "processed"}
        folders = {option: broker.folder / name for option, name in names.items()}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return {"polling_interval": POLL_S, **{option: str(folder) for option, folder in folders.items()}}
    return {"confirm_publish": True}


def _queue(broker: Broker) -> Queue:
    arguments = {"x-max-priority": HIGHEST_PRIORITY, "x-consumer-timeout": QUEUE_TIMEOUT_MS} if broker.kind == AMQP else None
    return Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE, queue_arguments=arguments)
