"""A broker under 10,000 jobs and 200 workers: how long a free worker waits for its next job, and what memory the broker takes.

    python bench/fleet_load.py redis://127.0.0.1 --pid $(pidof redis-server)

The workers are stand-ins: each has its connection and takes one message at a time, as Celery's do, and sleeps in place of making a video.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from pathlib import Path

import psutil
from kombu import Connection, Consumer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from cli.fleet.broker import QUEUE, TASK, Broker, make_app

RESULTS = "cache+memory://"


class StandIn(threading.Thread):
    """A worker that sleeps."""

    def __init__(self, url: str, options: dict, queue: object, job_s: float) -> None:
        super().__init__(daemon=True)
        self._connection, self._queue, self._job_s = Connection(url, transport_options=options), queue, job_s
        self.waits_s: list[float] = []
        self.ended = threading.Event()
        self._free_s = 0.0

    def run(self) -> None:
        with self._connection as connection, connection.channel() as channel:
            consumer = Consumer(channel, [self._queue], callbacks=[self._on_message], prefetch_count=1)
            consumer.qos(prefetch_count=1)
            with consumer:
                self._free_s = time.monotonic()
                while not self.ended.is_set():
                    try:
                        connection.drain_events(timeout=1)
                    except TimeoutError:
                        continue

    def _on_message(self, _body: object, message: object) -> None:
        self.waits_s.append(time.monotonic() - self._free_s)
        time.sleep(self._job_s)
        message.ack()
        self._free_s = time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a job")
    parser.add_argument("--pid", type=int, help="the broker's process, for its memory")
    options = parser.parse_args()
    app = make_app(Broker(options.url, RESULTS, redelivery_s=3600))
    queue = app.amqp.queues[QUEUE]
    memory = [memory_mb(options.pid)]
    start_s = time.monotonic()
    line = {
        "image": "s3://bucket/me.png",
        "audio": "s3://bucket/me.wav",
        "output": "s3://bucket/talk.mp4",
        "steps": 40,
        "prompt": "x" * 300,
    }
    for number in range(options.jobs):
        app.send_task(TASK, args=[line], task_id=f"load-{number}", queue=QUEUE)
    queued_s = time.monotonic() - start_s
    memory.append(memory_mb(options.pid))
    transport = app.conf.broker_transport_options
    workers = [StandIn(options.url, transport, queue, options.seconds) for _ in range(options.workers)]
    start_s = time.monotonic()
    for worker in workers:
        worker.start()
    while (done := sum(len(worker.waits_s) for worker in workers)) < options.jobs:
        print(f"{done} of {options.jobs}", file=sys.stderr)
        memory.append(memory_mb(options.pid))
        time.sleep(5)
    made_s = time.monotonic() - start_s
    for worker in workers:
        worker.ended.set()
    waits_s = sorted(wait for worker in workers for wait in worker.waits_s[1:])  # the first one is that of the start
    print(json.dumps({
        "jobs": options.jobs, "workers": options.workers, "job_s": options.seconds,
        "queued_per_s": round(options.jobs / queued_s), "made_s": round(made_s, 1),
        "at_best_s": options.jobs / options.workers * options.seconds,
        "wait_median_s": round(statistics.median(waits_s), 4), "wait_99_s": round(waits_s[int(0.99 * len(waits_s))], 4),
        "wait_max_s": round(waits_s[-1], 4), "broker_mb": {"before": memory[0], "queued": memory[1], "at_most": max(memory)},
    }))  # fmt: skip


def memory_mb(pid: int | None) -> float:
    return round(psutil.Process(pid).memory_info().rss / 1e6, 1) if pid else 0.0


if __name__ == "__main__":
    main()
