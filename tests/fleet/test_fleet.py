"""One worker with a real ComfyUI: a killed one goes on at the clip, cancelling, bad input, a broker that takes jobs away."""

import json
import os
import subprocess
import sys

import pytest

from .harness import ROOT, ClipWatch, RabbitMQ, finished_clips, processes_of, start_broker, wait_until

pytest.importorskip("celery")
pytest.importorskip("fsspec")
LONG_S = 300
NUM_CLIPS = 3


def clips_of(fleet, name):
    manifest = fleet.runs() / name / "manifest.json"
    return len(json.loads(manifest.read_text())["clips"]) if manifest.is_file() else 0


@pytest.mark.skipif(not os.environ.get("WAN_S2V_FLEET"), reason="takes minutes, and its cancel races with the job: set WAN_S2V_FLEET=1")
def test_a_killed_worker_loses_no_clip_and_cancel_and_bad_input_end_a_job(fleet, lines, tmp_path):
    made = fleet(start_broker("redis", tmp_path / "redis"))
    made.start(1)
    with ClipWatch(made.runs()) as watch:
        made.cli("submit", str(lines(1)))
        wait_until(lambda: clips_of(made, "job 0") >= 1, LONG_S, made.worker_logs)
        made.workers[0].victim("worker").kill()
        made.cli("submit", str(lines(1, "long", run_name="long", duration=8, steps=400, priority=0)))
        made.cli("submit", str(lines(1, "bad", run_name="bad", vae="wav2vec2.safetensors", priority=9)))
        wait_until(lambda: made.states()["job 0"]["state"] == "SUCCESS", LONG_S, made.worker_logs)
        wait_until(lambda: clips_of(made, "long") >= 1, LONG_S, made.worker_logs)
        made.cli("jobs", "cancel", "long")
        wait_until(lambda: made.states()["long"]["state"] == "REVOKED", LONG_S, made.worker_logs)
    assert watch.rewritten == []
    assert sum(key.startswith("job 0/") for key in watch.seen) == NUM_CLIPS
    bad = made.states()["bad"]
    assert (bad["state"], "wav2vec2.safetensors" in bad["error"]) == ("FAILURE", True)
    assert json.loads(made.cli("jobs", "dead", "--json").stdout) == []
    made.stop()
    assert len([line for line in finished_clips(made) if f"of {NUM_CLIPS} finished" in line]) <= NUM_CLIPS
    assert processes_of(tmp_path) == []


def test_a_worker_refuses_a_broker_that_takes_jobs_away(tmp_path, models, monkeypatch):
    monkeypatch.setattr(RabbitMQ, "consumer_timeout_s", 60)
    broker = start_broker("rabbitmq", tmp_path / "rabbitmq")
    try:
        command = [sys.executable, "-m", "cli", "worker", *broker.options(), "--output-dir", str(tmp_path), "--models-dir", str(models)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S)
    finally:
        broker.stop()
    assert (done.returncode, "takes a job away from its worker after 0:01:00" in done.stderr) == (3, True), done.stderr


def test_the_example_of_the_page_fetches_a_video_with_nothing_installed(stand_in, tmp_path):
    """The 20 lines of docs/scale.md, with a folder as the broker."""
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (example,) = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    samples = {"image": str(ROOT / "samples" / "sample_portrait.png"), "audio": str(ROOT / "samples" / "sample_speech.wav")}
    job = {**samples, "output": str(tmp_path / "talk.mp4")}
    broker = str(tmp_path / "broker")
    options = ["--broker", broker, "--comfyui", str(stand_in), "--output-dir", str(tmp_path / "output"), "--idle-exit", "300"]
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen([sys.executable, "-m", "cli", "worker", *options], cwd=ROOT, stdout=log, stderr=log)
    try:
        program = [sys.executable, "-c", example.replace("redis://127.0.0.1", broker), json.dumps(job)]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=LONG_S)
    finally:
        worker.terminate()
        worker.wait(LONG_S)
    assert done.returncode == 0, done.stderr + (tmp_path / "worker.log").read_text()
    assert done.stdout.splitlines()[-1] == f"SUCCESS {job['output']}"
    assert (tmp_path / "talk.mp4").read_bytes() == b"x" * 100
