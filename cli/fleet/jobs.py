"""`jobs`: list, cancel and retry, and what failed too often."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime

from celery import Celery
from kombu.exceptions import OperationalError

from .broker import Broker, BrokerError, make_app
from .checks import check_results, no_answer
from .job_lines import Job, JobError
from .states import ENDED, QUEUED, DeadLetters, States
from .submit import queue
from .waiting import words

FAILED, NO_BROKER = 1, 3  # exit status


def run(options: argparse.Namespace) -> int:
    """Do what is asked for, print it, and return the exit status."""
    try:
        broker = Broker.of(options)
        app = make_app(broker)
        check_results(app, broker)
        return ACTIONS[options.action](app, broker, options)
    except BrokerError as error:
        print(error, file=sys.stderr)
    except OperationalError as error:
        print(no_answer(broker, error), file=sys.stderr)
    return NO_BROKER


def list_jobs(app: Celery, _broker: Broker, options: argparse.Namespace) -> int:
    states = States(app)
    found = [states.read(name) for name in states.names()]
    _print(options, [state.as_json() for state in found], [f"{state.name}  {state.state}  {words(state)}" for state in found])
    return 0


def cancel(app: Celery, _broker: Broker, options: argparse.Namespace) -> int:
    states = States(app)
    told = []
    for name in options.names:
        state = states.read(name)
        can_be = bool(state.line) and state.state not in ENDED
        if can_be:
            states.ask_to_cancel(name)
        told.append({"name": name, "cancelled": can_be, "state": state.state})
    _print(
        options, told, [f"{item['name']}  {'is being cancelled' if item['cancelled'] else _why_not(str(item['state']))}" for item in told]
    )
    return 0 if all(item["cancelled"] for item in told) else FAILED


def retry(app: Celery, broker: Broker, options: argparse.Namespace) -> int:
    states, letters = States(app), DeadLetters(app)
    lines = {letter["name"]: letter["line"] for letter in letters.read()}  # they stay longer than states
    told = []
    for name in options.names:
        line = states.read(name).line or lines.get(name)
        try:
            told.append({"name": name, "state": queue(app, broker.kind, Job.of(line), again=True) if line else "PENDING"})
        except JobError as error:
            told.append({"name": name, "state": "REFUSED", "error": str(error)})
    letters.read(take=tuple(item["name"] for item in told if item["state"] == QUEUED))
    _print(options, told, [f"{item['name']}  {item.get('error') or _queued(item['state'])}" for item in told])
    return 0 if all(item["state"] == QUEUED for item in told) else FAILED


def dead(app: Celery, _broker: Broker, options: argparse.Namespace) -> int:
    letters = DeadLetters(app).read()
    lines = [f"{letter['name']}  {datetime.fromtimestamp(letter['time']):%Y-%m-%d %H:%M}  {letter['reason']}" for letter in letters]
    _print(options, letters, lines)
    return 0


def _why_not(state: str) -> str:
    return "is not known" if state == "PENDING" else f"has ended: {state}"


def _queued(state: str) -> str:
    return "is queued again" if state == QUEUED else "is not known"


def _print(options: argparse.Namespace, items: list, lines: list[str]) -> None:
    print(json.dumps(items, indent=2) if options.json else "\n".join(lines))


ACTIONS: dict[str, Callable[[Celery, Broker, argparse.Namespace], int]] = {
    "list": list_jobs,
    "cancel": cancel,
    "retry": retry,
    "dead": dead,
}
