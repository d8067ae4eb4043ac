"""Brokers and workers as processes that are killed and started again, as systemd, compose or Kubernetes would."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from wan_s2v_pack.cli.comfyui.server import free_port

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.1
REDELIVERY_S = 15
START_S = 180
OF_OTHERS = ("WAN_S2V_BROKER", "WAN_S2V_RESULTS", "REMAP_SIGTERM", "CELERY_", "_MP_FORK_", "RABBITMQ_")


def environment(**changes: str) -> dict[str, str]:
    """That of this process, without what the user or another test has put there for a fleet of theirs."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)}, **changes}


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


class Told:
    """What the commands are told of a broker."""

    url: str
    results: str | None = None

    def options(self) -> list[str]:
        """Of every command."""
        return ["--broker", self.url, *(["--results", self.results] if self.results else [])]

    def worker_options(self) -> list[str]:
        return self.options()

    def states(self) -> dict[str, dict[str, Any]]:
        """By the names of jobs, as `jobs list --json` prints them."""
        from wan_s2v_pack.cli.fleet.broker import Broker, make_app
        from wan_s2v_pack.cli.fleet.states import States

        states = States(make_app(Broker(self.url, self.results)))
        return {name: states.read(name).as_json() for name in states.names()}


class FolderBroker(Told):
    """What needs nothing installed; it knows of no lost workers."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder / "broker")

    def start(self) -> None:
        """Nothing is to be started."""

    def stop(self) -> None:
        """Nothing is to be stopped."""


class Server(Told):
    """A broker that is a process; it keeps its jobs over a restart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            variables = environment(**self.environment())
            self._process = subprocess.Popen(self.command(), env=variables, stdout=log, stderr=log, start_new_session=True)
        end_s = time.monotonic() + START_S
        while not self.answers():
            assert time.monotonic() < end_s, (self.folder / "log").read_text()
            time.sleep(POLL_S)

    def answers(self) -> bool:
        from kombu import Connection

        try:
            with Connection(self.url, connect_timeout=1) as connection:
                connection.ensure_connection(max_retries=1, timeout=1)
                return True
        except Exception:  # noqa: BLE001 - each library has its own
            return False

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(START_S)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()


class Redis(Server):
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        return [self.program or "", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--appendonly", "yes"]

    def worker_options(self) -> list[str]:
        return [*self.options(), "--redelivery-after", str(REDELIVERY_S)]


class RabbitMQ(Server):
    """With the states of jobs in a folder."""

    program = os.environ.get("RABBITMQ_SERVER") or shutil.which("rabbitmq-server")
    consumer_timeout_s = 86_400

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.results = str(folder / "results")

    def command(self) -> list[str]:
        return [self.program or ""]

    def environment(self) -> dict[str, str]:
        config = self.folder / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\nconsumer_timeout = {self.consumer_timeout_s * 1000}\n")
        names = {"MNESIA_BASE": "mnesia", "LOG_BASE": "logs", "ENABLED_PLUGINS_FILE": "plugins", "PID_FILE": "pid"}
        places = {f"RABBITMQ_{name}": str(self.folder / place) for name, place in names.items()}
        node = {"RABBITMQ_NODENAME": f"fleet{self.port}@localhost", "RABBITMQ_NODE_PORT": str(self.port)}
        return {**places, **node, "RABBITMQ_CONFIG_FILE": str(config), "RABBITMQ_DIST_PORT": str(free_port()), "HOME": str(self.folder)}

    def worker_options(self) -> list[str]:
        return [*self.options(), "--consumer-timeout", str(self.consumer_timeout_s)]


BROKERS = {"redis": Redis, "rabbitmq": RabbitMQ}


def start_broker(name: str, folder: Path) -> FolderBroker | Server:
    """A folder, or a real broker; the test is skipped where it is not installed."""
    if name == "folder":
        return FolderBroker(folder)
    if not BROKERS[name].program:
        pytest.skip(f"{name} is not installed (apt-get install {name}-server)")
    broker = BROKERS[name](folder)
    broker.start()
    return broker


class Worker:
    """A worker that is started again whenever it ends."""

    def __init__(self, name: str, options: list[str], output: Path, logs: Path) -> None:
        self.name, self._output, self._logs = name, output, logs
        self._command = [sys.executable, "-m", "cli", "worker", "--name", name, "--output-dir", str(output), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        log = self._logs / f"{self.name} {self.starts}.log"
        self.starts += 1
        variables = environment(OMP_NUM_THREADS="1")
        with log.open("wb") as file:
            self._process = subprocess.Popen(self._command, cwd=ROOT, env=variables, stdout=file, stderr=file, start_new_session=True)

    def keep_running(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self._keep_server_log()
            self.start()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._keep_server_log()
        self._process = None

    def victim(self, what: str) -> psutil.Process | None:
        """The worker itself, the child that works, or its ComfyUI; None where there is none yet."""
        if self._process is None or self._process.poll() is not None:
            return None
        main = psutil.Process(self._process.pid)
        if what == "worker":
            return main
        word = {"server": "main.py", "child": "worker"}[what]  # the child is a fork, with the same words as the worker
        return next((child for child in main.children() if word in child.cmdline()), None)

    def _keep_server_log(self) -> None:
        log = self._output / f".wan_s2v_worker_{self.name}" / "server.log"
        if log.is_file():
            log.rename(self._logs / f"server {self.name} {self.starts}.log")


class Fleet:
    """Some workers at one broker, with one folder for runs."""

    def __init__(self, broker: FolderBroker | Server, models: Path, folder: Path) -> None:
        self.broker, self.folder, self._models = broker, folder, models
        self.output, self.logs = folder / "output", folder / "logs"
        self.logs.mkdir(parents=True)
        self.workers: list[Worker] = []
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def start(self, count: int) -> None:
        options = [*self.broker.worker_options(), "--models-dir", str(self._models)]
        self.workers = [Worker(f"w{number}", options, self.output, self.logs) for number in range(count)]
        for worker in self.workers:
            worker.start()
        self._keeper.start()

    def _keep(self) -> None:
        while not self._ended.wait(POLL_S):
            for worker in self.workers:
                worker.keep_running()

    def stop(self) -> None:
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join()
        for worker in self.workers:
            worker.stop()
        self.workers = []
        self.broker.stop()

    def cli(self, *arguments: str) -> str:
        """`submit`, `jobs` and so on with this fleet's broker; what it prints."""
        done = run_cli(*arguments, *self.broker.options())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def states(self) -> dict[str, dict[str, Any]]:
        return self.broker.states()

    def worker_logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.logs.glob("w*.log")))

    def runs(self) -> Path:
        return self.output / "wan_s2v_runs"


def wait_until(condition, seconds: float, say=lambda: "") -> None:
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, say()
        time.sleep(POLL_S)


class ClipWatch:
    """Sees every clip that a run has, and whether a stored one is ever written again."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self.seen: dict[str, tuple[int, int]] = {}
        self.rewritten: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> ClipWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        for manifest in self._runs.glob("*/manifest.json"):
            for name in json.loads(manifest.read_text())["clips"]:
                facts = (manifest.parent / name).stat()
                key, now = f"{manifest.parent.name}/{name}", (facts.st_ino, facts.st_mtime_ns)
                if self.seen.setdefault(key, now) != now:
                    self.rewritten.append(key)


def finished_clips(fleet: Fleet) -> list[str]:
    """One entry for each clip that a ComfyUI says it has finished."""
    lines = [line for log in fleet.logs.glob("server *.log") for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if " finished: " in line]


def processes_of(folder: Path) -> list[str]:
    """What still runs with a folder among its arguments."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = process.info["cmdline"] or []
        if any(str(folder) in word for word in words):
            found.append(f"{process.info['pid']}: {' '.join(words)[:200]}")
    return found
