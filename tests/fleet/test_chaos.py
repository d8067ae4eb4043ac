"""Kills every few seconds: all jobs are made, as without kills, and no clip twice.

It takes minutes on a machine of its own and an hour on a busy one, so it runs only where WAN_S2V_CHAOS says how many jobs there shall be
(60); WAN_S2V_CHAOS_EVERY: seconds between two kills (10). What it measures goes to the standard output: pytest -s.
"""

import hashlib
import itertools
import json
import os
import time

import pytest

from .harness import ClipWatch, FolderBroker, finished_clips, processes_of, start_broker, wait_until

pytest.importorskip("celery")
pytest.importorskip("fsspec")
NUM_JOBS = int(os.environ.get("WAN_S2V_CHAOS", "0"))
EVERY_S = float(os.environ.get("WAN_S2V_CHAOS_EVERY", "10"))
NUM_CLIPS, NUM_WORKERS = 3, 3
LONGEST_S = 7200
VICTIMS = ("worker", "child", "server", "broker")

pytestmark = pytest.mark.skipif(NUM_JOBS == 0, reason="WAN_S2V_CHAOS is not set: it takes up to an hour")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.mp4"))}


def all_ended(fleet):
    return all(job["state"] in ("SUCCESS", "FAILURE", "REVOKED") for job in fleet.states().values())


@pytest.fixture(scope="module")
def serial():
    """By the name of the file the hash of each video that one worker makes without kills, once for all brokers."""
    return {}


@pytest.mark.parametrize("name", ["rabbitmq", "redis"])
def test_kills_change_nothing(name, fleet, lines, serial, tmp_path):
    if not serial:
        serial.update(make_serially(fleet, lines, tmp_path))
    broker = start_broker(name, tmp_path / name)
    made = fleet(broker)
    made.start(NUM_WORKERS)
    made.cli("submit", str(lines(NUM_JOBS)))
    start_s, kills = time.monotonic(), dict.fromkeys(VICTIMS, 0)
    with ClipWatch(made.runs()) as watch:
        for number in itertools.count():
            time.sleep(EVERY_S)
            if all_ended(made):
                break
            assert time.monotonic() - start_s < LONGEST_S, made.states()
            kill(made, broker, VICTIMS[number % 4], number, kills)
    seconds = time.monotonic() - start_s
    states = made.states()
    starts = sum(worker.starts for worker in made.workers)
    waiting = json.loads(made.cli("jobs", "dead", "--json"))
    left = queue_length(made)
    made.stop()
    told = {
        "broker": name,
        "jobs": NUM_JOBS,
        "seconds": round(seconds),
        "kills": kills,
        "worker starts": starts,
        "clips seen": len(watch.seen),
    }
    print(json.dumps({**told, "rewritten": watch.rewritten, "finished in logs": len(finished_clips(made)), "left": left, "dead": waiting}))
    assert {job["state"] for job in states.values()} == {"SUCCESS"}, states
    assert digests(tmp_path / "out") == serial
    assert (watch.rewritten, len(watch.seen)) == ([], NUM_JOBS * NUM_CLIPS)
    assert len(finished_clips(made)) <= NUM_JOBS * NUM_CLIPS
    assert (left, waiting) == (0, [])
    assert processes_of(tmp_path) == []


def make_serially(fleet, lines, tmp_path):
    made = fleet(FolderBroker(tmp_path / "serial broker"), "serial")
    made.start(1)
    start_s = time.monotonic()
    made.cli("submit", str(lines(NUM_JOBS)))
    wait_until(lambda: all_ended(made), LONGEST_S, made.worker_logs)
    print(json.dumps({"serial": NUM_JOBS, "seconds": round(time.monotonic() - start_s)}))
    made.stop()
    found = digests(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    return found


def kill(fleet, broker, what, number, kills):
    """Kill one of the kind: of another worker each time, of the next one where it is just being started."""
    if what == "broker":
        broker.restart()
        kills[what] += 1
        return
    victims = (fleet.workers[(number + later) % NUM_WORKERS].victim(what) for later in range(NUM_WORKERS))
    if victim := next(filter(None, victims), None):
        victim.kill()
        kills[what] += 1


def queue_length(fleet):
    """Messages that wait, once copies of finished jobs have been taken."""
    from kombu import Connection, Queue

    end_s = time.monotonic() + 60
    while True:
        with Connection(fleet.broker.url) as connection:
            channel = connection.default_channel
            if hasattr(channel, "_size"):
                length = channel._size("wan_s2v") + channel.client.zcard("unacked_index")
            else:
                length = Queue("wan_s2v")(channel).queue_declare(passive=True).message_count
        if length == 0 or time.monotonic() > end_s:
            return length
        time.sleep(1)
