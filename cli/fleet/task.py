"""The task: a job that was delivered, perhaps not for the first time, becomes a video, goes back to the queue, or fails for good."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery, Task, states
from celery.exceptions import Ignore
from kombu.exceptions import OperationalError

from ..comfyui.client import ComfyClient
from ..comfyui.errors import ComfyError, NoAnswer, PromptFailed, PromptInterrupted, PromptRefused
from ..predict.object_info import PackMissing, PromptError
from .broker import DEADLINE, TASK
from .files import put
from .job_lines import Job, JobError
from .rendering import RunInUse, prompt_id_of, render
from .states import ENDED, PROGRESS, DeadLetters, JobState, States

logger = logging.getLogger("wan_s2v")
FINAL = ("ValueError", "CheckpointError", "RunChangedError", "RedoError")  # of nodes: the same again, however often it is tried
PAUSE_S = 2.0  # before a job goes back to the queue whose run is in use
RETRY_S = 5.0
LOOK_S = 2.0  # between looks whether the job is to be cancelled
MOST_LOSSES = 10  # workers that may get lost at the same clip
LOST, CLIP = "lost", "clip"  # in the progress
PATIENCE_S = 10.0  # for a server that does not answer


class JobFailed(RuntimeError):
    """The job failed for good; the message says why."""


def add_task(app: Celery, server_url: str) -> Task:
    """Let the app make videos on a ComfyUI that runs beside this worker."""

    @app.task(bind=True, name=TASK, throws=(JobFailed,), shared=False)
    def make_video(task: Task, line: dict[str, Any]) -> dict[str, Any]:
        return Delivery(task, line, ComfyClient(server_url, patience_s=PATIENCE_S)).make()

    return make_video


@dataclass
class Delivery:
    """One delivery of a job.

    Attributes:
        lost: workers that got lost at the clip at which the job is now.
        was_cancelled: somebody wishes so, and the server was told.
        clip: the one that was heard of last, from 1; 0 before that.
    """

    task: Task
    line: Mapping[str, Any]
    client: ComfyClient
    lost: int = 0
    was_cancelled: bool = False
    clip: int = 0

    @cached_property
    def states(self) -> States:
        return States(self.task.app)

    def make(self) -> dict[str, Any]:
        """Make the video and say so, or raise what Celery is to do with the job."""
        job = self._read()
        before = self.states.read(job.name)
        if before.state in ENDED:  # delivered twice, as Redis does with what lasts long; who queues it once more notes that first
            raise Ignore
        if self.states.is_to_be_cancelled(job.name) or (before.state != PROGRESS and self._is_late()):
            self._end_revoked()
        self._begin(job, before.info if before.state == PROGRESS else {})
        try:
            with self._watched(job):
                return self._finish(job)
        except RunInUse:
            self._leave_to_another(job, before)
        except PromptInterrupted as error:
            if self.was_cancelled:
                self._end_revoked()
            self._try_again(job, error)
        except NoAnswer as error:
            self._stop_worker()
            self._try_again(job, error)
        except (JobError, PromptRefused, FileNotFoundError) as error:
            raise JobFailed(str(error)) from None
        except (ComfyError, PromptError, OSError) as error:
            if _is_final(error):
                raise JobFailed(str(error)) from None
            self._try_again(job, error)
        raise AssertionError("every way of handling a failure raises")

    def _read(self) -> Job:
        try:
            return Job.of(self.line)
        except JobError as error:  # queued by something else than `submit`
            raise JobFailed(str(error)) from None

    def _is_late(self) -> bool:
        deadline = self.task.request.get(DEADLINE)
        return deadline is not None and datetime.now(timezone.utc) > datetime.fromisoformat(deadline)

    def _begin(self, job: Job, before: Mapping[str, Any]) -> None:
        try:
            self.client.system_stats()
        except ComfyError as error:
            logger.error("%s: given back, as this worker's ComfyUI is gone: %s", job.name, error)
            self._stop_worker()
            self._give_back()
        self.lost = before.get(LOST, -1) + 1
        if self.lost > MOST_LOSSES:
            self._bury(job, f"{self.lost} workers got lost at clip {before.get(CLIP, 1)}. Look at their logs: is there too little memory?")
        self._report({**before, LOST: self.lost})

    def _finish(self, job: Job) -> dict[str, Any]:
        start_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="wan_s2v_job_") as folder:
            video = render(self.client, job, Path(folder), self._on_progress, self._on_clip)
            local = Path(folder) / f"video{Path(job.line['output']).suffix}"
            if self.clip:
                self._tell("task-clip", self.clip)
            self.client.download(video, local)
            put(local, job.line["output"])
        seconds = round(time.monotonic() - start_s, 3)
        logger.info("%s: made in %.1f s", job.name, seconds)
        return {"video": job.line["output"], "seconds": seconds, "worker": socket.gethostname()}

    # --- progress

    def _on_progress(self, progress: Mapping[str, Any]) -> None:
        self._report({**progress, LOST: self.lost, "worker": self.task.request.hostname or ""})

    def _on_clip(self, clip: int) -> None:
        """Events for Flower's metrics: a clip is done, or work goes on behind some."""
        if self.clip:
            self._tell("task-clip", self.clip)
            self.lost = 0
        elif clip > 1:
            self._tell("task-resumed", clip)
        self.clip = clip

    def _tell(self, event: str, clip: int) -> None:
        """To whoever counts; a job does not fail for that."""
        try:
            self.task.send_event(event, retry=False, clip=clip)
        except Exception as error:  # noqa: BLE001 - each broker has its own
            logger.warning("%s of clip %d did not reach the broker: %s", event, clip, error)

    def _report(self, progress: Mapping[str, Any]) -> None:
        self.task.update_state(state=PROGRESS, meta=dict(progress))

    # --- ends

    def _give_back(self, retries: int | None = None) -> None:
        """Queue the job again behind the others that wait, and be done with this delivery."""
        time.sleep(PAUSE_S)
        request = self.task.request
        again = self.task.signature_from_request(request, retries=request.retries if retries is None else retries)
        self._insist(again.apply_async)
        raise Ignore

    def _insist(self, send: Callable[[], object]) -> None:
        """Send, however long the broker is away. The job would have failed without it; this delivery ends only behind it."""
        while True:
            try:
                send()
                return
            except (OperationalError, OSError, *self.task.app.connection_for_write().recoverable_connection_errors) as error:
                logger.warning("the broker does not answer and is asked again in %g s: %s", RETRY_S, error)
                time.sleep(RETRY_S)

    def _leave_to_another(self, job: Job, before: JobState) -> None:
        logger.info("%s: another worker is at it", job.name)
        if self.states.read(job.name).state == PROGRESS:  # it may have come to its end meanwhile
            self._report(before.info)
        self._give_back()

    def _try_again(self, job: Job, error: Exception) -> None:
        tried = self.task.request.retries
        logger.warning("%s: failure %d of %d: %s", job.name, tried + 1, job.retries + 1, error)
        if tried >= job.retries:
            self._bury(job, str(error))
        self._report({**self.states.read(job.name).info, LOST: self.lost - 1})  # this worker is not lost
        time.sleep(RETRY_S)
        self._give_back(tried + 1)

    def _bury(self, job: Job, reason: str) -> None:
        self._insist(lambda: DeadLetters(self.task.app).add(job.name, job.line, reason))
        raise JobFailed(reason)

    def _end_revoked(self) -> None:
        self.task.update_state(state=states.REVOKED, meta={})
        raise Ignore

    def _stop_worker(self) -> None:
        """End the worker behind this job: what started it starts it again, with another ComfyUI."""
        os.kill(os.getppid(), signal.SIGINT)

    def _interrupt_if_cancelled(self, job: Job) -> None:
        if self.states.is_to_be_cancelled(job.name):
            self.was_cancelled = True
            self.client.interrupt(prompt_id_of(job))

    @contextmanager
    def _watched(self, job: Job) -> Iterator[None]:
        """Meanwhile look whether the job is to be cancelled."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(LOOK_S):
                try:
                    self._interrupt_if_cancelled(job)
                except Exception as error:  # noqa: BLE001 - of ComfyUI, or of whatever keeps the states; the next look may succeed
                    logger.warning("%s: whether it is to be cancelled is looked at again in %g s: %s", job.name, LOOK_S, error)

        thread = threading.Thread(target=watch, name="wan_s2v_cancel", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _is_final(error: Exception) -> bool:
    """Whether the job fails in the same way wherever it is made."""
    if isinstance(error, PromptFailed):
        return error.kind.rpartition(".")[2] in FINAL
    return isinstance(error, PromptError) and not isinstance(error, PackMissing)
