"""What becomes of a delivered job, with Celery's own worker in this process and a stand-in for ComfyUI."""

import logging
import os
import re
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from celery import Signature
from celery.contrib.testing.worker import start_worker
from celery.signals import setup_logging
from kombu.exceptions import OperationalError
from wan_s2v_pack.cli.comfyui.errors import ComfyError, NoAnswer, PromptFailed, PromptInterrupted, PromptRefused
from wan_s2v_pack.cli.fleet import task
from wan_s2v_pack.cli.fleet.broker import Broker, make_app
from wan_s2v_pack.cli.fleet.job_lines import Job
from wan_s2v_pack.cli.fleet.rendering import RunInUse
from wan_s2v_pack.cli.fleet.states import DeadLetters, States
from wan_s2v_pack.cli.fleet.submit import queue
from wan_s2v_pack.tests.unit.cli.fleet.conftest import forget_other_folders

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a worker needs fork")
LONG_S = 300.0  # for what a busy machine needs


class Machine:
    """In place of ComfyUI: `outcomes` are raised by one try after the other, then the video is made."""

    def __init__(self, outcomes=()):
        self.outcomes = list(outcomes)
        self.tries = 0
        self.num_clips = 2
        self.is_there = True
        self.ended_workers = 0
        self.interrupted = []

    def render(self, _client, _job, _folder, report, on_clip):
        self.tries += 1
        for clip in range(1, self.num_clips + 1):
            on_clip(clip)
            report({"clip": clip, "clips": self.num_clips})
        if self.outcomes:
            raise self.outcomes.pop(0)
        return "video"

    def system_stats(self):
        if not self.is_there:
            self.is_there = True
            raise NoAnswer("ComfyUI does not answer")

    def download(self, _video, local):
        local.write_bytes(b"video")

    def interrupt(self, prompt_id):
        self.interrupted.append(prompt_id)


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(task, "render", machine.render)
    monkeypatch.setattr(task, "ComfyClient", lambda *_, **__: machine)
    monkeypatch.setattr(task.os, "kill", lambda *_: setattr(machine, "ended_workers", machine.ended_workers + 1))
    for name in ("PAUSE_S", "RETRY_S"):
        monkeypatch.setattr(task, name, 0.0)
    monkeypatch.setattr(task, "LOOK_S", 0.05)
    return machine


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    return Broker(str(tmp_path_factory.mktemp("fleet")))


@pytest.fixture(scope="module")
def process_stays():
    """What Celery changes in this process is not for the tests that follow: levels and handlers of logs, and variables for its children."""

    def leave(**_):
        """Celery sets up no logs where somebody listens to this signal."""

    names = set(os.environ)
    setup_logging.connect(leave)
    yield
    setup_logging.disconnect(leave)
    for name in set(os.environ) - names:
        if name.startswith(("CELERY_", "_MP_FORK_")):
            del os.environ[name]


@pytest.fixture(scope="module")
def app(broker, process_stays):
    """With one worker for all tests: to start and stop one takes seconds."""
    forget_other_folders()
    app = make_app(broker)
    task.add_task(app, "http://127.0.0.1:1")
    with start_worker(app, pool="solo", perform_ping_check=False):
        yield app


@pytest.fixture
def job(files, request):
    return Job.of({**files, "run_name": re.sub(r"\W+", "_", request.node.name)[:100]})


@pytest.fixture
def work(app, broker, machine, job):
    """Wait until the job has ended; return its state."""

    def work(queued=True):
        if queued:
            queue(app, broker.kind, job)
        return state_at_the_end(app, job)

    return work


def state_at_the_end(app, job):
    end_s = time.monotonic() + LONG_S
    while (state := States(app).read(job.name)).state not in ("SUCCESS", "FAILURE", "REVOKED"):
        assert time.monotonic() < end_s, state
        time.sleep(0.02)
    return state


def send(app, job, **changes):
    """Queue a job as it is, past all checks."""
    app.send_task(task.TASK, args=[{**job.line, **changes}], task_id=job.name, queue="wan_s2v")


def letters_of(app, job):
    return [letter for letter in DeadLetters(app).read() if letter["name"] == job.name]


def test_the_worker_in_this_process_leaves_logging_as_it_was(app):
    assert logging.getLogger("wan_s2v").isEnabledFor(logging.WARNING)


def test_a_video_is_made(work, job, files):
    state = work()
    assert (state.state, state.info["video"], state.line) == ("SUCCESS", files["output"], job.line)
    with open(files["output"], "rb") as video:
        assert video.read() == b"video"


@pytest.mark.parametrize(
    "error",
    [
        PromptRefused("LoadImage: no picture"),
        PromptFailed("no sound", kind="ValueError"),
        PromptFailed("no S2V model", kind="custom_nodes.wan_s2v.checkpoints.CheckpointError"),
        FileNotFoundError("there is no file me.png"),
    ],
)
def test_a_bad_input_fails_once_with_its_message(work, machine, app, job, error):
    machine.outcomes = [error] * 9
    state = work()
    assert (state.state, state.error, machine.tries) == ("FAILURE", str(error), 1)
    assert letters_of(app, job) == []


def test_what_failed_three_times_is_a_dead_letter_with_the_reason(work, machine, app, job):
    machine.outcomes = [PromptFailed("out of memory", kind="torch.OutOfMemoryError"), ComfyError("broken"), OSError("disk full")]
    state = work()
    assert (state.state, state.error, machine.tries) == ("FAILURE", "disk full", 3)
    assert [(letter["line"], letter["reason"]) for letter in letters_of(app, job)] == [(job.line, "disk full")]


def test_what_failed_twice_may_succeed(work, machine):
    machine.outcomes = [ComfyError("broken")] * 2
    assert (work().state, machine.tries) == ("SUCCESS", 3)


def test_a_run_in_use_waits_for_the_other_worker_and_is_no_failure(work, machine):
    machine.outcomes = [RunInUse("run 'song' is in use by another process")] * 5
    assert (work().state, machine.tries) == ("SUCCESS", 6)


@pytest.mark.parametrize(("outcomes", "end"), [([], "SUCCESS"), ([PromptRefused("LoadImage: no picture")], "FAILURE")])
def test_a_second_delivery_of_a_job_that_has_ended_does_nothing(work, machine, app, broker, files, job, outcomes, end):
    """Redis delivers what lasts longer than its time-out once more: what fails late would fail for ever."""
    machine.outcomes = outcomes
    assert work().state == end
    send(app, job)
    last = Job.of({**files, "run_name": f"behind {end}"})  # the worker makes one after the other
    queue(app, broker.kind, last)
    assert state_at_the_end(app, last).state == "SUCCESS"
    assert (States(app).read(job.name).state, machine.tries) == (end, 2)


def test_a_failed_job_that_is_queued_again_is_tried_again(work, machine, app, broker, job):
    machine.outcomes = [PromptRefused("LoadImage: no picture")]
    assert work().state == "FAILURE"
    assert (work().state, machine.tries) == ("SUCCESS", 2)


def test_a_waiting_job_is_cancelled(work, machine, app, job):
    States(app).ask_to_cancel(job.name)
    send(app, job)
    assert (work(queued=False).state, machine.tries) == ("REVOKED", 0)


def test_a_running_job_is_cancelled_by_comfyuis_interrupt(work, machine, app, job, monkeypatch):
    def render(*_):
        States(app).ask_to_cancel(job.name)
        while not machine.interrupted:
            time.sleep(0.01)
        raise PromptInterrupted("The prompt was cancelled.")

    monkeypatch.setattr(task, "render", render)
    assert work().state == "REVOKED"
    assert set(machine.interrupted) == {task.prompt_id_of(job)}


def test_a_cancel_that_comfyui_does_not_hear_is_told_again(work, machine, app, job, monkeypatch):
    def interrupt(prompt_id):
        machine.interrupted.append(prompt_id)
        if len(machine.interrupted) == 1:
            raise NoAnswer("ComfyUI does not answer")

    def render(*_):
        States(app).ask_to_cancel(job.name)
        end_s = time.monotonic() + LONG_S / 2
        while len(machine.interrupted) < 2 and time.monotonic() < end_s:
            time.sleep(0.01)
        raise PromptInterrupted("The prompt was cancelled.")

    monkeypatch.setattr(machine, "interrupt", interrupt)
    monkeypatch.setattr(task, "render", render)
    assert work().state == "REVOKED"
    assert len(machine.interrupted) >= 2


def test_a_look_at_the_wish_to_cancel_that_fails_is_not_the_last_one(work, app, machine, job, monkeypatch):
    is_to_be_cancelled, failures = States.is_to_be_cancelled, [OSError("stale file handle"), RuntimeError("no answer")]

    def look(states, name):
        if threading.current_thread().name == "wan_s2v_cancel" and failures:
            raise failures.pop()
        return is_to_be_cancelled(states, name)

    def render(*_):
        States(app).ask_to_cancel(job.name)
        end_s = time.monotonic() + LONG_S / 2
        while not machine.interrupted and time.monotonic() < end_s:
            time.sleep(0.01)
        raise PromptInterrupted("The prompt was cancelled.")

    monkeypatch.setattr(States, "is_to_be_cancelled", look)
    monkeypatch.setattr(task, "render", render)
    assert (work().state, failures) == ("REVOKED", [])


def test_a_job_is_not_begun_after_its_deadline(work, machine, app, broker, job):
    queue(app, broker.kind, replace(job, expires=datetime.now(timezone.utc) - timedelta(seconds=1)))
    assert (work(queued=False).state, machine.tries) == ("REVOKED", 0)


def test_a_job_that_is_begun_before_its_deadline_is_made_though_it_is_given_back(work, machine, app, broker, job, monkeypatch):
    """The broker delivers it again, or the worker queues it again."""
    deadline = datetime.now(timezone.utc) + timedelta(hours=1)
    machine.outcomes = [ComfyError("broken"), RunInUse("run 'song' is in use by another process")]
    is_late = task.Delivery._is_late
    monkeypatch.setattr(task.Delivery, "_is_late", lambda delivery: machine.tries > 0 or is_late(delivery))
    queue(app, broker.kind, replace(job, expires=deadline))
    assert (work(queued=False).state, machine.tries) == ("SUCCESS", 3)


def test_a_worker_without_its_comfyui_gives_the_job_back_and_ends(work, machine):
    machine.is_there = False
    assert (work().state, machine.tries, machine.ended_workers) == ("SUCCESS", 1, 1)


def test_a_comfyui_that_ends_during_a_job_counts_as_a_failure_and_ends_the_worker(work, machine):
    machine.outcomes = [NoAnswer("ComfyUI does not answer")] * 9
    assert (work().state, machine.tries, machine.ended_workers) == ("FAILURE", 3, 3)


def test_a_job_at_which_many_workers_get_lost_is_a_dead_letter(work, machine, app, job):
    app.backend.store_result(job.name, {"clip": 2, "lost": task.MOST_LOSSES}, "PROGRESS")
    send(app, job)
    state = work(queued=False)
    assert (state.state, machine.tries) == ("FAILURE", 0)
    assert "11 workers got lost at clip 2" in letters_of(app, job)[0]["reason"]


def test_failures_are_no_lost_workers(work, machine, app, broker, files):
    job = Job.of({**files, "run_name": "failures", "retries": task.MOST_LOSSES + 2})
    machine.outcomes = [ComfyError("broken")] * (task.MOST_LOSSES + 2)
    machine.num_clips = 1
    queue(app, broker.kind, job)
    assert state_at_the_end(app, job).state == "SUCCESS"


def test_a_job_of_another_program_is_checked_too(work, machine, app, job):
    send(app, job, steps="many")
    state = work(queued=False)
    assert (state.state, machine.tries) == ("FAILURE", 0)
    assert "steps" in state.error


@pytest.mark.parametrize("error", [OperationalError("[Errno 111] Connection refused"), ConnectionResetError(104, "reset")])
@pytest.mark.parametrize("place", [(Signature, "apply_async"), (DeadLetters, "add")])
def test_a_broker_that_is_away_for_a_moment_fails_no_job(work, machine, monkeypatch, app, job, place, error):
    """A broker that was restarted when a ComfyUI had just been killed took the job away for good."""
    machine.outcomes = [ComfyError("connection lost")] * 3
    real, refusals = getattr(*place), [error] * 2

    def send(*given, **how):
        if refusals:
            raise refusals.pop()
        return real(*given, **how)

    monkeypatch.setattr(*place, send)
    state = work()
    assert (state.state, state.error) == ("FAILURE", "connection lost")
    assert machine.tries == 3
    assert [letter["reason"] for letter in letters_of(app, job)] == ["connection lost"]
    assert refusals == []


def test_figures_that_the_broker_does_not_take_fail_no_job(work, monkeypatch):
    def refuse(_self, _kind, **_facts):
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(task.Task, "send_event", refuse)
    assert work().state == "SUCCESS"


@pytest.mark.parametrize(
    ("clips", "sent"),
    [
        ((1, 2, 3), [("task-clip", 1), ("task-clip", 2), ("task-clip", 3)]),
        ((2, 3), [("task-resumed", 2), ("task-clip", 2), ("task-clip", 3)]),
    ],
)
def test_each_clip_and_each_resume_is_an_event(work, machine, monkeypatch, clips, sent):
    def render(_client, _job, _folder, _report, on_clip):
        for clip in clips:
            on_clip(clip)
        return "video"

    events = []
    monkeypatch.setattr(task, "render", render)
    monkeypatch.setattr(task.Task, "send_event", lambda _self, kind, **facts: events.append((kind, facts["clip"])))
    work()
    assert events == sent
