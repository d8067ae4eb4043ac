"""What Celery is told of each broker."""

import pytest
from wan_s2v_pack.cli.fleet.broker import FOLDER, QUEUE, Broker, BrokerError, folder_of, make_app, priority_for
from wan_s2v_pack.cli.fleet.states import States


@pytest.mark.parametrize("url", ["amqp://host", "redis://host", "folder"])
def test_jobs_outlive_their_workers_on_every_broker(url, tmp_path):
    conf = make_app(Broker(str(tmp_path) if url == "folder" else url, "redis://host/1")).conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert conf.result_expires >= 30 * 86_400
    assert (conf.task_time_limit, conf.task_soft_time_limit) == (None, None)
    assert [queue.name for queue in conf.task_queues] == [QUEUE]  # and not the dead letters


def test_rabbitmq_has_priorities_and_a_time_of_its_own():
    queue = make_app(Broker("amqp://host", "redis://host")).conf.task_queues[0]
    assert queue.queue_arguments["x-max-priority"] == 9
    assert queue.queue_arguments["x-consumer-timeout"] >= 7 * 86_400_000


def test_redis_gives_lost_jobs_out_again_soon():
    options = make_app(Broker("redis://host", redelivery_s=33)).conf.broker_transport_options
    assert options["visibility_timeout"] == 33
    assert options["unacked_restore_interval"] <= 5


def test_the_larger_priority_goes_first():
    assert [priority_for(Broker(url).kind, 9) for url in ("amqp://host", "redis://host")] == [9, 0]


@pytest.mark.parametrize(
    ("url", "results", "says"),
    [
        ("amqp://host", None, "RabbitMQ keeps no states of jobs"),
        ("sqs://", None, "--broker must begin with amqp:// or redis://"),
        ("Ünï cödé://", None, "--broker must begin with amqp:// or redis://"),
        ("amqp://host", "sqs://", "--results must begin with redis://"),
        ("amqp://host", "s q s://", "--results must begin with redis://"),
    ],
)
def test_what_cannot_be_used_is_said(url, results, says):
    with pytest.raises(BrokerError, match=says):
        make_app(Broker(url, results))


def test_no_password_is_printed():
    for broker in (Broker("rabbitmq://me:secret@host"), Broker("amqp://host", "mongodb://me:secret@host")):
        with pytest.raises(BrokerError) as caught:
            make_app(broker)
        assert "secret" not in str(caught.value)
    assert Broker("redis://:secret@host:1/0").place == "host:1"


def test_without_a_broker():
    from argparse import Namespace

    with pytest.raises(BrokerError, match="No broker is named"):
        Broker.of(Namespace(broker=None, results=None, redelivery_after=1))


@pytest.mark.parametrize("place", [r"C:\fleet", "C:/fleet", "c:fleet"])
def test_a_disk_of_windows_is_no_kind_of_url(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # here it is the name of a file
    assert Broker(place).kind == FOLDER
    assert make_app(Broker("amqp://host", place)).backend.as_uri().endswith("states")


def test_the_folder_of_a_url_may_have_spaces(tmp_path):
    folder = tmp_path / "my fleet"
    assert folder_of(folder.as_uri()) == folder


def test_a_state_in_a_folder_is_never_half_written(app, broker):
    """Whoever has opened the file before goes on reading the state of before, and not the first bytes of the next one."""
    app.backend.store_result("song", {"clip": 1}, "PROGRESS")
    (file,) = (broker.folder / "states").iterdir()
    before = file.stat().st_ino
    app.backend.store_result("song", {"clip": 2}, "PROGRESS")
    assert file.stat().st_ino != before
    assert list((broker.folder / "states").iterdir()) == [file]
    assert States(app).read("song").info == {"clip": 2}
