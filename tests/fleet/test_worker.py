"""A worker with a broker and a stand-in for ComfyUI: how jobs are cancelled, fail, come too late, and are given back."""

import json
import subprocess
import sys

import pytest

from .harness import ROOT, environment, run_cli, start_broker, wait_until

pytest.importorskip("celery")
pytest.importorskip("fsspec")
NEVER = "1000000000"
LONG_S = 300  # for what a busy machine needs


@pytest.fixture
def broker(tmp_path, request):
    """Redis, or what the test names."""
    broker = start_broker(getattr(request, "param", "redis"), tmp_path / "broker")
    yield broker
    broker.stop()


@pytest.fixture
def start(broker, stand_in, tmp_path):
    """Start workers, which end with the test."""
    workers = []

    def start(name, looks="0", **options):
        words = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", str(value))]
        places = ["--comfyui", str(stand_in), "--output-dir", str(tmp_path / "output")]
        command = [sys.executable, "-m", "cli", "worker", "--name", name, *broker.worker_options(), *places, *words]
        # What another program has set there is the opposite of what it has to be.
        variables = environment(LOOKS=looks, REMAP_SIGTERM="SIGQUIT" if "grace" in options else "")
        with (tmp_path / f"{name}.log").open("wb") as log:
            workers.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=variables))
        return workers[-1]

    yield start
    for worker in workers:
        worker.terminate()
        worker.wait(LONG_S)


@pytest.fixture
def submit(broker, tmp_path):
    """Queue jobs, each with these changes."""
    samples = {"image": str(ROOT / "samples" / "sample_portrait.png"), "audio": str(ROOT / "samples" / "sample_speech.wav")}

    def submit(*changes):
        jobs = [{**samples, "output": str(tmp_path / "out" / f"{number}.mp4"), **change} for number, change in enumerate(changes)]
        (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
        done = run_cli("submit", str(tmp_path / "jobs.jsonl"), *broker.options())
        assert done.returncode == 0, done.stderr

    return submit


@pytest.fixture
def until(broker, tmp_path):
    """Wait until each job is in its state, or in one of them."""

    def until(**states):
        def are():
            known = broker.states()
            return all(known[name]["state"] in state.split() for name, state in states.items())

        wait_until(are, LONG_S, lambda: "\n".join([str(broker.states()), *(log.read_text() for log in tmp_path.glob("*.log"))]))

    return until


@pytest.mark.parametrize("broker", ["folder", "redis", "rabbitmq"], indirect=True)
def test_a_running_and_a_waiting_job_are_cancelled_and_bad_input_fails_once(start, submit, until, broker):
    """The job that runs would never end by itself."""
    start("a", NEVER)
    submit({"run_name": "running", "priority": 9})
    until(running="PROGRESS")
    submit({"run_name": "waiting"}, {"run_name": "bad", "vae": "none.safetensors", "priority": 0})
    done = run_cli("jobs", "cancel", "waiting", "running", *broker.options())
    assert done.returncode == 0, done.stderr
    until(running="REVOKED", waiting="REVOKED", bad="FAILURE")
    assert "none.safetensors" in broker.states()["bad"]["error"]
    assert run_cli("jobs", "dead", *broker.options()).stdout.strip() == ""


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_a_job_that_waits_past_its_deadline_is_told_as_revoked(start, submit, until):
    submit({"run_name": "late", "deadline": "2026-01-01T00:00:00Z"}, {"run_name": "other"})
    start("a")
    until(late="REVOKED", other="SUCCESS")


def test_sigterm_gives_the_job_back(start, submit, until):
    """Another worker has it long before Redis would deliver it again; nothing of the first one is left."""
    first = start("a", NEVER, redelivery_after=3600)
    submit({"run_name": "job"})
    until(job="PROGRESS")
    first.terminate()
    first.wait(LONG_S)
    start("b", redelivery_after=3600)
    until(job="SUCCESS")


@pytest.mark.parametrize(("looks", "grace_s", "end"), [("6", 600, "SUCCESS"), (NEVER, 5, "PROGRESS")])
def test_a_grace_lets_the_job_end_first(start, submit, until, broker, tmp_path, looks, grace_s, end):
    worker = start("a", looks, grace=grace_s)  # looks, two seconds apart
    submit({"run_name": "job"})
    until(job="PROGRESS SUCCESS")
    worker.terminate()
    worker.wait(LONG_S)
    assert broker.states()["job"]["state"] == end, (tmp_path / "a.log").read_text()
