"""How a worker begins and ends; that it makes videos is tried in tests/fleet."""

import os
from types import SimpleNamespace

import pytest
from celery.signals import worker_process_init
from filelock import FileLock
from wan_s2v_pack.cli.__main__ import main
from wan_s2v_pack.cli.fleet import worker


@pytest.fixture(autouse=True)
def _can_fork(monkeypatch):
    """As everywhere but on Windows, where what comes before a fork can be tested all the same."""
    monkeypatch.setattr(os, "fork", getattr(os, "fork", None), raising=False)


@pytest.fixture
def run(tmp_path, monkeypatch, comfyui):
    output = tmp_path / "output"
    output.mkdir()

    def run(*arguments):
        return main(["worker", "--broker", str(tmp_path / "fleet"), "--comfyui", str(comfyui), "--output-dir", str(output), *arguments])

    return run


@pytest.fixture
def comfyui(tmp_path):
    """A ComfyUI that ends at once."""
    folder = tmp_path / "comfyui"
    (folder / "models").mkdir(parents=True)
    for name in ("main.py", "folder_paths.py"):
        (folder / name).write_text("print('no GPU')")
    return folder


def test_a_system_that_cannot_fork_is_refused(run, monkeypatch, capsys):
    monkeypatch.delattr(os, "fork")
    assert run() == worker.REFUSED
    assert "A worker needs Linux or macOS" in capsys.readouterr().err


def test_two_of_one_name_are_refused(run, tmp_path, capsys):
    with FileLock(tmp_path / "output" / ".wan_s2v_worker_a.lock"):
        assert run("--name", "a") == worker.REFUSED
    assert "There is a worker a already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", "/tmp", "a/b", r"a\b", "../a", "a b", "%h", "a.", "-a", "a" * 101])
def test_a_name_that_is_none_is_refused(run, tmp_path, capsys, name):
    """It goes into the path of a folder that is removed, and Celery replaces letters behind a %."""
    assert run(f"--name={name}") == worker.REFUSED
    assert f"A worker cannot be called {name!r}. Give it a --name of letters" in capsys.readouterr().err
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.parametrize("name", ["a", "w0", "wan-s2v-worker-7d9c.node_1", "a" * 100])
def test_a_name_of_a_machine_or_a_pod_is_taken(name):
    assert worker.NAME.fullmatch(name)


def test_a_gpu_is_for_its_comfyui_and_nothing_is_left_in_this_process(run, comfyui, capsys, monkeypatch):
    """A worker that runs in a process of tests changes none of those that follow."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before, listeners = dict(os.environ), list(worker_process_init.receivers)
    (comfyui / "main.py").write_text("import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])")
    assert run("--name", "a", "--gpu", "1,2") == worker.REFUSED
    assert "sees 1,2" in capsys.readouterr().err
    assert (dict(os.environ), worker_process_init.receivers) == (before, listeners)


def test_other_workers_outlive_whoever_started_their_process(monkeypatch):
    """Where the pool is no prefork, Celery sends this signal in the process itself, such as that of the tests."""
    asked = []
    monkeypatch.setattr(worker, "die_with_parent", lambda: asked.append("to be killed with the parent"))
    worker_process_init.send(sender=None)
    assert asked == []


def test_a_comfyui_that_does_not_start_is_said(run, capsys, monkeypatch):
    monkeypatch.setattr("wan_s2v_pack.cli.predict.connection.has_accelerator", lambda: False)
    assert run("--name", "a") == worker.REFUSED
    assert "ComfyUI ended while starting" in (said := capsys.readouterr().err)
    assert "no GPU" in said


def test_an_output_folder_that_cannot_be_used_is_said(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("--output-dir", str(tmp_path / "file")) == worker.REFUSED
    assert f"{tmp_path / 'file'} cannot be used" in capsys.readouterr().err


def test_without_a_broker(capsys, monkeypatch):
    monkeypatch.delenv("WAN_S2V_BROKER", raising=False)
    assert main(["worker"]) == worker.REFUSED
    assert "No broker is named" in capsys.readouterr().err


def test_it_ends_when_there_was_nothing_to_do_for_long(monkeypatch):
    now, state = [0.0], SimpleNamespace(reserved_requests=set(), should_stop=None)
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker, "state", state)
    step = worker.end_when_idle(300.0)(SimpleNamespace(steps=[]))
    ended = []
    for busy, seconds in [(False, 299), (True, 1000), (False, 299), (False, 2)]:
        now[0] += seconds
        state.reserved_requests = {"job"} if busy else set()
        step.look()
        ended.append(state.should_stop)
    assert ended == [None, None, None, 0]
