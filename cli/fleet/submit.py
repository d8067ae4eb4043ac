"""`submit`: check jobs, queue them, and on request wait for them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError

from .broker import DEADLINE, QUEUE, TASK, Broker, BrokerError, make_app, priority_for
from .checks import check_results, no_answer
from .job_lines import Job, JobError, read_jobs
from .states import ENDED, QUEUED, States
from .waiting import wait_for

try:
    from ...wan_s2v_model.untrusted import MOST_JSON_BYTES, TooLargeError, read_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import MOST_JSON_BYTES, TooLargeError, read_plain

FAILED, WRONG, NO_BROKER = 1, 2, 3  # exit status; 0: queued, or with --wait all made


def run(options: argparse.Namespace) -> int:
    """Queue the jobs of a file and return the exit status."""
    try:
        jobs = read_jobs(_text_of(options.file).splitlines())
        broker = Broker.of(options)
        app = make_app(broker)
        check_results(app, broker)
        told = [{"name": job.name, "state": queue(app, broker.kind, job)} for job in jobs]
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else "it is no text"
        return _refuse(f"{options.file} cannot be read: {reason}.", WRONG)
    except JobError as error:
        return _refuse(f"Nothing was queued.\n{error}", WRONG)
    except BrokerError as error:
        return _refuse(str(error), NO_BROKER)
    except OperationalError as error:
        return _refuse(no_answer(broker, error), NO_BROKER)
    outcomes = wait_for(States(app), [job.name for job in jobs]) if options.wait else None
    if options.json:
        print(json.dumps([outcome.as_json() for outcome in outcomes] if outcomes is not None else told, indent=2))
    elif outcomes is None:
        print("\n".join(f"{item['name']}  {item['state']}" for item in told))
    return FAILED if any(outcome.state != "SUCCESS" for outcome in outcomes or []) else 0


def _text_of(file: str) -> str:
    """The jobs of a file, or of the standard input."""
    if file != "-":
        return read_plain(Path(file), MOST_JSON_BYTES, through_links=True).decode("utf-8")
    text = sys.stdin.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise TooLargeError(Path("-"), len(text), MOST_JSON_BYTES)
    return text


def queue(app: Celery, kind: str, job: Job, again: bool = False) -> str:
    """Queue a job unless it is there already, and return what is done with it.

    Args:
        kind: of the broker. again: also where it ended in the same way before.
    Raises:
        JobError: another job of this name waits or is being made.
    """
    states = States(app)
    known = states.read(job.name)
    if known.line == job.line and not again and known.state not in ("FAILURE", "REVOKED"):
        return known.state
    if known.line and known.line != job.line and known.state not in ENDED:
        raise JobError(f"{job.name}: another job of this run-name is {known.state.lower()}. Cancel it, or choose another run-name.")
    states.note_queued(job)  # before a worker may write more
    # Celery's `expires` would take back a job that is begun, and RabbitMQ drops such a message without a word.
    headers = {DEADLINE: job.expires.isoformat()} if job.expires else {}
    try:
        app.send_task(TASK, args=[job.line], task_id=job.name, queue=QUEUE, priority=priority_for(kind, job.priority), headers=headers)
    except OperationalError:
        if not again:  # which needs the line once more
            states.forget(job.name)  # else the next `submit` would find it queued
        raise
    return QUEUED


def _refuse(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
