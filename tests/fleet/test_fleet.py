"""One worker with a real ComfyUI: a killed one goes on at the clip; a broker that takes jobs away; the example of the page."""

import json
import subprocess
import sys

import pytest

from .harness import ROOT, ClipWatch, RabbitMQ, environment, finished_clips, processes_of, run_cli, start_broker, wait_until

pytest.importorskip("celery")
pytest.importorskip("fsspec")
LONG_S = 300
NUM_CLIPS = 3
PLACE = "redis://127.0.0.1"


def clips_of(fleet, name):
    manifest = fleet.runs() / name / "manifest.json"
    return len(json.loads(manifest.read_text())["clips"]) if manifest.is_file() else 0


@pytest.mark.parametrize(("name", "what"), [("redis", "worker"), ("rabbitmq", "child")])
def test_a_killed_process_costs_no_finished_clip(fleet, lines, tmp_path, name, what):
    made = fleet(start_broker(name, tmp_path / name))
    made.start(1)
    with ClipWatch(made.runs()) as watch:
        made.cli("submit", str(lines(1)))
        wait_until(lambda: clips_of(made, "job 0") >= 1, LONG_S, made.worker_logs)
        made.workers[0].victim(what).kill()
        wait_until(lambda: made.states()["job 0"]["state"] == "SUCCESS", LONG_S, made.worker_logs)
    assert (watch.rewritten, len(watch.seen)) == ([], NUM_CLIPS)
    made.stop()
    assert len(finished_clips(made)) <= NUM_CLIPS  # one more was stored, perhaps, but not told any more
    wait_until(lambda: processes_of(tmp_path) == [], LONG_S, lambda: str(processes_of(tmp_path)))


def test_a_worker_refuses_a_broker_that_takes_jobs_away(tmp_path, models, monkeypatch):
    monkeypatch.setattr(RabbitMQ, "consumer_timeout_s", 60)
    broker = start_broker("rabbitmq", tmp_path / "rabbitmq")
    try:
        done = run_cli("worker", *broker.worker_options(), "--output-dir", str(tmp_path), "--models-dir", str(models))
    finally:
        broker.stop()
    assert (done.returncode, "takes a job away from its worker after 0:01:00" in done.stderr) == (3, True), done.stderr


def run_example(broker, job):
    """The 20 lines of docs/scale.md, with another broker."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (example,) = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    assert example.count(PLACE) == 1
    program = [sys.executable, "-c", example.replace(PLACE, broker), json.dumps(job)]
    return subprocess.run(program, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LONG_S)


@pytest.fixture
def job(tmp_path):
    samples = {"image": str(ROOT / "samples" / "sample_portrait.png"), "audio": str(ROOT / "samples" / "sample_speech.wav")}
    return {**samples, "output": str(tmp_path / "talk.mp4")}


def test_the_example_of_the_page_says_that_its_broker_does_not_answer(job):
    done = run_example("redis://127.0.0.1:1", job)
    assert (done.returncode, "does not answer at 127.0.0.1:1" in done.stderr) == (1, True), done.stderr


def test_the_example_of_the_page_fetches_a_video_with_nothing_installed(stand_in, job, tmp_path):
    broker = str(tmp_path / "broker")
    options = ["--broker", broker, "--comfyui", str(stand_in), "--output-dir", str(tmp_path / "output"), "--idle-exit", "300"]
    with (tmp_path / "worker.log").open("wb") as log:
        command = [sys.executable, "-m", "cli", "worker", *options]
        worker = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
    try:
        done = run_example(broker, job)
    finally:
        worker.terminate()
        worker.wait(LONG_S)
    assert done.returncode == 0, done.stderr + (tmp_path / "worker.log").read_text()
    assert done.stdout.splitlines()[-1] == f"SUCCESS {job['output']}"
    assert (tmp_path / "talk.mp4").read_bytes() == b"x" * 100
