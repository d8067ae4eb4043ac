"""A worker refuses a broker that would take its job away or forget it. The real brokers: tests/fleet."""

import subprocess

import pytest
from wan_s2v_pack.cli.fleet import checks
from wan_s2v_pack.cli.fleet.broker import Broker, BrokerError, make_app
from wan_s2v_pack.cli.fleet.checks import check_broker

DAY_S = 86_400.0


@pytest.fixture
def rabbitmqctl(monkeypatch):
    """What the program answers; None: it is not there."""
    answers = {"text": "{consumer_timeout,1800000}"}
    monkeypatch.setattr(checks.shutil, "which", lambda name: None if answers["text"] is None else name)
    monkeypatch.setattr(checks.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, f"[{answers['text']},"))
    return answers


def test_a_short_time_out_is_refused(rabbitmqctl):
    with pytest.raises(BrokerError, match=r"takes a job away from its worker after 0:30:00 .*Write consumer_timeout = 86400000 into"):
        checks._check_rabbitmq("3.10.8", DAY_S, None)


@pytest.mark.parametrize("text", ["{consumer_timeout,86400000}", "{consumer_timeout, undefined}", "{consumer_timeout,infinity}"])
def test_a_long_one_or_none_is_not(rabbitmqctl, text):
    rabbitmqctl["text"] = text
    checks._check_rabbitmq("3.10.8", DAY_S, None)


@pytest.mark.parametrize("text", [None, "{other,1}"])
def test_one_that_cannot_be_found_out_has_to_be_said(rabbitmqctl, text):
    rabbitmqctl["text"] = text
    with pytest.raises(BrokerError, match="say it with --consumer-timeout SECONDS"):
        checks._check_rabbitmq("3.10.8", DAY_S, None)
    checks._check_rabbitmq("3.10.8", DAY_S, DAY_S)
    with pytest.raises(BrokerError, match="after 0:10:00"):
        checks._check_rabbitmq("3.10.8", DAY_S, 600.0)


@pytest.mark.parametrize("version", ["3.12.0", "3.13.7", "4.1.0"])
def test_newer_ones_have_it_in_the_queue(rabbitmqctl, version):
    checks._check_rabbitmq(version, DAY_S, None)


class Redis:
    def __init__(self, **settings):
        self.settings = {"maxmemory": "0", "maxmemory-policy": "noeviction", "appendonly": "yes", **settings}

    def config_get(self, name):
        return {name: self.settings[name]}


def test_a_redis_that_forgets_is_refused():
    checks._check_redis(Redis(), 120.0)
    with pytest.raises(BrokerError, match="forgets jobs when its memory is full"):
        checks._check_redis(Redis(**{"maxmemory": "100", "maxmemory-policy": "allkeys-lru"}), 120.0)
    with pytest.raises(BrokerError, match="--redelivery-after is 2 s"):
        checks._check_redis(Redis(), 2.0)


def test_a_redis_without_a_file_is_warned_of(caplog):
    checks._check_redis(Redis(appendonly="no"), 120.0)
    assert "a crash of it loses some" in caplog.text


def test_a_broker_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr(checks, "TRIES", 1)
    broker = Broker("redis://me:secret@127.0.0.1:1")
    with pytest.raises(BrokerError, match=r"The broker does not answer at 127\.0\.0\.1:1 "):
        check_broker(make_app(broker), broker, DAY_S)


@pytest.mark.parametrize("broker", [Broker("redis://:secret@127.0.0.1:1"), Broker("amqp://host", "redis://:secret@127.0.0.1:1")])
def test_results_that_are_not_there_are_said(broker):
    with pytest.raises(BrokerError, match=r"which keeps the states of jobs, does not answer at 127\.0\.0\.1:1 \("):
        checks.check_results(make_app(broker), broker)


def test_a_folder_is_there(app, broker):
    check_broker(app, broker, DAY_S)
    checks.check_results(app, broker)
