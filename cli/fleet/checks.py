"""What a worker asks of its broker before it takes a job: that it does not take jobs away while they are made, nor forgets them."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from datetime import timedelta

from celery import Celery
from kombu.exceptions import OperationalError

from .broker import AMQP, REDIS, Broker, BrokerError

logger = logging.getLogger("wan_s2v")
OWN_TIMEOUTS_SINCE = (3, 12)  # RabbitMQ whose queues have a time-out of their own, which ours set
TRIES = 5
ASK_S = 30.0
TIMEOUT = re.compile(r"\{consumer_timeout,\s*(\d+|undefined|infinity)\}")
SHORTEST_REDELIVERY_S = 10.0


def check_broker(app: Celery, broker: Broker, longest_job_s: float, stated_timeout_s: float | None = None) -> None:
    """Find out that the broker can be used for jobs of this length.

    Args:
        stated_timeout_s: what the operator says of RabbitMQ's consumer_timeout; else it is asked.
    Raises:
        BrokerError: it does not answer, would take a job away from its worker, or forgets jobs.
    """
    try:
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=TRIES, interval_start=0.2, interval_max=1)
            if broker.kind == AMQP:
                version = connection.connection.server_properties.get("version", "0")
                _check_rabbitmq(str(version), longest_job_s, stated_timeout_s)
            elif broker.kind == REDIS:
                _check_redis(connection.default_channel.client, broker.redelivery_s)
    except (OperationalError, *app.connection_for_read().connection_errors) as error:
        raise BrokerError(no_answer(broker, error)) from error


def no_answer(broker: Broker, error: Exception) -> str:
    """What to say of a broker that cannot be reached."""
    return f"The broker does not answer at {broker.place} ({error}). Is it running?"


def check_results(app: Celery, broker: Broker) -> None:
    """Raise BrokerError unless what keeps the states of jobs answers: Celery would wait for it without a word."""
    client = getattr(app.backend, "client", None)  # of Redis
    if client is None:
        return
    from redis.exceptions import RedisError

    try:
        client.ping()
    except RedisError as error:
        place = broker.place_of_results
        raise BrokerError(f"Redis, which keeps the states of jobs, does not answer at {place} ({error}). Is it running?") from error


def _check_rabbitmq(version: str, longest_job_s: float, stated_timeout_s: float | None) -> None:
    if tuple(map(int, re.findall(r"\d+", version)[:2])) >= OWN_TIMEOUTS_SINCE:
        return
    timeout_s = _asked_timeout_s(version) if stated_timeout_s is None else stated_timeout_s
    if timeout_s is not None and timeout_s < longest_job_s:
        raise BrokerError(
            f"RabbitMQ {version} takes a job away from its worker after {_hours(timeout_s)} (consumer_timeout), and a job may last "
            f"{_hours(longest_job_s)} here (--longest-job): it would be made twice. Write consumer_timeout = {longest_job_s * 1000:.0f} "
            "into rabbitmq.conf and start it again, or update to RabbitMQ 3.12, where the queue of this fleet has a time of its own."
        )


def _asked_timeout_s(version: str) -> float | None:
    """What rabbitmqctl says, None for no time-out. Before 3.12 clients have no way to ask."""
    program = shutil.which("rabbitmqctl")
    answer = subprocess.run([program, "environment"], capture_output=True, text=True, timeout=ASK_S) if program else None
    found = TIMEOUT.search(answer.stdout) if answer else None
    if found is None:
        raise BrokerError(
            f"RabbitMQ {version} does not tell its clients after which time it takes a job away (consumer_timeout, usually 30 minutes), "
            "and rabbitmqctl could not be asked here. Look into its rabbitmq.conf and say it with --consumer-timeout SECONDS, or update it "
            "to 3.12."
        )
    return float(found[1]) / 1000 if found[1].isdecimal() else None


def _check_redis(client: object, redelivery_s: float) -> None:
    if redelivery_s < SHORTEST_REDELIVERY_S:
        raise BrokerError(
            f"--redelivery-after is {redelivery_s:g} s: Redis would hand out jobs again while they are made. Give at least "
            f"{SHORTEST_REDELIVERY_S:g} s."
        )
    from redis.exceptions import ResponseError

    try:
        answers = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "appendonly")}  # type: ignore[attr-defined]
    except (ResponseError, KeyError) as error:
        logger.warning("Redis does not tell its settings (%s): maxmemory-policy must be noeviction, else jobs are lost", error)
        return
    if answers["maxmemory"] != "0" and answers["maxmemory-policy"] != "noeviction":
        raise BrokerError(
            f"Redis forgets jobs when its memory is full (maxmemory-policy is {answers['maxmemory-policy']}). "
            "Set maxmemory-policy noeviction in redis.conf."
        )
    if answers["appendonly"] != "yes":
        logger.warning(
            "Redis keeps jobs in memory (appendonly is %s): a crash of it loses some. Set appendonly yes.", answers["appendonly"]
        )


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
