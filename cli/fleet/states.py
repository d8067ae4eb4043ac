"""What became of each job, as Celery's result backend keeps it; and what failed too often, as the broker keeps it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery, states
from kombu import Connection, Exchange, Queue

from .broker import DEAD, BrokerError
from .job_lines import Job

QUEUED, PROGRESS = "QUEUED", "PROGRESS"
WAITING = (QUEUED, states.PENDING, states.RETRY, states.RECEIVED)
ENDED = (states.SUCCESS, states.FAILURE, states.REVOKED)
CANCEL = "cancel "  # begins the name under which a wish to cancel is kept; no run is called so


@dataclass(frozen=True)
class JobState:
    """A job, as far as it is known.

    Attributes:
        line: its options. info: progress, or the result. error: why it failed.
    """

    name: str
    state: str
    line: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        told = {"name": self.name, "state": self.state, **self.info}
        return {**told, "error": self.error} if self.error else told


class States:
    """Reads and writes the states of jobs."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def read(self, name: str) -> JobState:
        """PENDING if nothing is known of the job."""
        meta = self._meta(name)
        result, arguments = meta.get("result"), meta.get("args") or []
        info = result if isinstance(result, dict) else {}
        line = arguments[0] if arguments else info.get("line", {})
        error = str(result) if meta["status"] == states.FAILURE else ""
        return JobState(name, meta["status"], line, {key: value for key, value in info.items() if key != "line"}, error)

    def names(self) -> list[str]:
        """All jobs of which something is known."""
        prefix = self._app.backend.task_keyprefix.decode()
        found = [key.removeprefix(prefix) for key in self._keys(prefix) if key.startswith(prefix)]
        return sorted(name for name in found if not name.startswith(CANCEL))

    def note_queued(self, job: Job) -> None:
        self.forget(job.name)
        self._app.backend.store_result(job.name, {"line": job.line}, QUEUED)

    def forget(self, name: str) -> None:
        """How the job ended before, and that it was to be cancelled."""
        for key in (name, CANCEL + name):
            if self._meta(key)["status"] != states.PENDING:
                self._app.backend.forget(key)

    def ask_to_cancel(self, name: str) -> None:
        """Let whoever works on the job, or takes it up, cancel it."""
        self._app.backend.store_result(CANCEL + name, None, states.REVOKED)

    def is_to_be_cancelled(self, name: str) -> bool:
        return self._meta(CANCEL + name)["status"] == states.REVOKED

    def _meta(self, name: str) -> dict[str, Any]:
        """Past Celery's memory."""
        return self._app.backend.get_task_meta(name, cache=False)

    def _keys(self, prefix: str) -> list[str]:
        backend = self._app.backend
        if hasattr(backend, "client"):  # Redis
            return [key.decode() for key in backend.client.scan_iter(f"{prefix}*", count=1000)]
        if hasattr(backend, "path"):
            return [file.name for file in Path(os.fsdecode(backend.path)).iterdir()]
        raise BrokerError("Jobs can be listed where states are kept in Redis or in a folder. Name the jobs.")


class DeadLetters:
    """The jobs that failed as often as they may: messages in a queue of their own that no worker reads."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._queue = Queue(DEAD, Exchange(DEAD), routing_key=DEAD)

    def add(self, name: str, line: Mapping[str, Any], reason: str) -> None:
        letter = {"name": name, "line": dict(line), "reason": reason, "time": round(time.time())}
        with self._app.producer_pool.acquire(block=True) as producer:
            options = {"exchange": self._queue.exchange, "routing_key": DEAD, "declare": [self._queue]}
            producer.publish(letter, serializer="json", retry=True, **options)

    def read(self, take: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        """All of them; those of the jobs named in `take` are taken out."""
        with self._app.connection_for_read() as connection:
            messages = self._received(connection)
            for message in messages:
                if message.payload["name"] in take:
                    message.ack()
                else:
                    message.requeue()
        return [message.payload for message in messages]

    def _received(self, connection: Connection) -> list[Any]:
        channel = connection.default_channel
        queue = self._queue(channel)
        queue.declare()
        messages = []
        while (message := queue.get(no_ack=False)) is not None:
            messages.append(message)
        return messages
