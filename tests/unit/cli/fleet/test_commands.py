"""The three commands: they start without Celery and say what to install; with it they queue, list, cancel and retry."""

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from wan_s2v_pack.cli.__main__ import main
from wan_s2v_pack.tests.systems import from_checkout
from wan_s2v_pack.tests.unit.cli.fleet.conftest import forget_other_folders
from wan_s2v_pack.wan_s2v_model.untrusted import MOST_JSON_BYTES

ROOT = Path(__file__).resolve().parents[4]
WITHOUT = "import sys; sys.modules['celery'] = None; from cli.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("arguments", [["worker"], ["submit", "jobs.jsonl"], ["jobs", "list"]])
def test_without_celery_it_is_said_what_to_install(arguments):
    done = subprocess.run([*from_checkout(WITHOUT), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert "python -m pip install -r" in done.stderr
    assert "requirements-fleet.txt" in done.stderr


def test_the_rest_starts_without_celery():
    done = subprocess.run([*from_checkout(WITHOUT), "runs", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "The runs that Sample Video" in done.stdout) == (0, True)


@pytest.fixture
def cli(tmp_path, capsys):
    """Run a command with a folder as the broker; return its exit status, what it printed, and what it said beside."""
    pytest.importorskip("celery")
    pytest.importorskip("fsspec")
    forget_other_folders()

    def cli(*arguments):
        status = main([*arguments, "--broker", str(tmp_path / "fleet")])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return cli


@pytest.fixture
def jobs(tmp_path, files):
    """Write a file of jobs; return its path."""

    def jobs(*changes):
        path = tmp_path / "jobs.jsonl"
        path.write_text("\n".join(json.dumps({**files, **change}) for change in changes), encoding="utf-8")
        return str(path)

    return jobs


def waiting(tmp_path):
    return len(list((tmp_path / "fleet" / "queue").iterdir()))


def test_jobs_are_queued_once(cli, jobs, tmp_path):
    path = jobs({"run_name": "a"}, {"run_name": "b", "seed": 2})
    assert cli("submit", path)[:2] == (0, "a  QUEUED\nb  QUEUED\n")
    assert cli("submit", path)[0] == 0
    assert waiting(tmp_path) == 2
    status, out, _ = cli("jobs", "list", "--json")
    assert (status, json.loads(out)) == (0, [{"name": "a", "state": "QUEUED"}, {"name": "b", "state": "QUEUED"}])


def test_no_broker_takes_a_job_back_at_its_deadline(cli, jobs, tmp_path):
    """RabbitMQ would drop the message without a word, and Celery revoke a job that is begun; the task looks at the header."""
    cli("submit", jobs({"run_name": "a", "deadline": "2999-01-01T00:00:00Z"}))
    (message,) = (json.loads(path.read_text()) for path in (tmp_path / "fleet" / "queue").iterdir())
    assert (message["headers"]["wan_s2v_deadline"], message["headers"]["expires"]) == ("2999-01-01T00:00:00+00:00", None)
    assert "expiration" not in message["properties"]


@pytest.mark.parametrize("before", ["SIGQUIT", "", None])
def test_the_environment_is_left_as_it_was(cli, monkeypatch, before):
    if before is None:
        monkeypatch.delenv("REMAP_SIGTERM", raising=False)
    else:
        monkeypatch.setenv("REMAP_SIGTERM", before)
    cli("jobs", "list")
    assert os.environ.get("REMAP_SIGTERM") == before


def test_nothing_is_queued_if_a_line_is_wrong(cli, jobs, tmp_path):
    status, _, err = cli("submit", jobs({"run_name": "a"}, {"run_name": "b", "steps": "x"}))
    assert (status, "Nothing was queued.\nline 2: steps" in err) == (2, True)
    assert not (tmp_path / "fleet").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(cli, tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    status, _, err = cli("submit", str(tmp_path / "pipe.jsonl"))
    assert (status, "pipe.jsonl cannot be read: it is no plain file" in err) == (2, True)


def test_a_file_without_end_or_text_is_refused(cli, tmp_path, monkeypatch):
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"\xff{}")
    assert "jobs.jsonl cannot be read: it is no text" in cli("submit", str(path))[2]
    with path.open("wb") as file:
        file.truncate(MOST_JSON_BYTES + 1)
    assert "jobs.jsonl cannot be read: it has 67,108,865 bytes, and such a file at most" in cli("submit", str(path))[2]
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * (MOST_JSON_BYTES + 1)))
    assert "- cannot be read: it has 67,108,865 bytes, and such a file at most" in cli("submit", "-")[2]


def test_another_job_of_a_waiting_name_is_refused(cli, jobs):
    cli("submit", jobs({"run_name": "a"}))
    status, _, err = cli("submit", jobs({"run_name": "a", "seed": 2}))
    assert (status, "a: another job of this run-name is queued" in err) == (2, True)


def test_cancel_and_retry(cli, jobs, tmp_path):
    cli("submit", jobs({"run_name": "a"}))
    assert cli("jobs", "cancel", "a", "b")[:2] == (1, "a  is being cancelled\nb  is not known\n")
    assert cli("jobs", "retry", "a", "b")[:2] == (1, "a  is queued again\nb  is not known\n")
    assert waiting(tmp_path) == 2
    assert cli("jobs", "dead")[:2] == (0, "\n")


def test_dead_letters_are_listed_until_they_are_tried_again(cli, jobs, app):
    from wan_s2v_pack.cli.fleet.states import DeadLetters

    cli("submit", jobs({"run_name": "a"}, {"run_name": "b"}))
    for name in "ab":
        DeadLetters(app).add(name, {}, "disk full")
    assert "a  20" in (out := cli("jobs", "dead")[1])
    assert out.count("disk full") == 2
    cli("jobs", "retry", "a")
    assert [letter["name"] for letter in json.loads(cli("jobs", "dead", "--json")[1])] == ["b"]


def test_a_dead_letter_outlives_the_state_of_its_job(cli, jobs, app, files):
    from wan_s2v_pack.cli.fleet.job_lines import Job
    from wan_s2v_pack.cli.fleet.states import DeadLetters

    DeadLetters(app).add("old", Job.of({**files, "run_name": "old"}).line, "disk full")
    DeadLetters(app).add("odd", {"steps": "many"}, "disk full")
    status, out, _ = cli("jobs", "retry", "old", "odd")
    assert (status, out.splitlines()[0]) == (1, "old  is queued again")
    assert [letter["name"] for letter in json.loads(cli("jobs", "dead", "--json")[1])] == ["odd"]


@pytest.mark.parametrize("arguments", [("submit",), ("jobs", "list"), ("jobs", "cancel", "a")])
def test_a_broker_that_does_not_answer_is_said(jobs, capsys, arguments):
    pytest.importorskip("redis")
    files = [jobs({})] if arguments == ("submit",) else []
    assert main([*arguments, *files, "--broker", "redis://:secret@127.0.0.1:1"]) == 3
    error = capsys.readouterr().err
    assert ("does not answer at 127.0.0.1:1" in error, "secret" in error) == (True, False)


def test_what_could_not_be_queued_is_queued_by_the_next_try(jobs, capsys, tmp_path):
    """Else it would read as queued, and never be made."""
    pytest.importorskip("celery")
    path, results = jobs({"run_name": "a"}), ["--results", str(tmp_path / "fleet")]
    for arguments in (["submit", path], ["jobs", "dead"]):
        assert main([*arguments, "--broker", "amqp://me:secret@127.0.0.1:1", *results]) == 3
        error = capsys.readouterr().err
        assert ("The broker does not answer at 127.0.0.1:1" in error, "secret" in error) == (True, False)
    assert main(["submit", path, "--broker", str(tmp_path / "fleet")]) == 0
    assert (capsys.readouterr().out, waiting(tmp_path)) == ("a  QUEUED\n", 1)


def test_without_a_broker(capsys, jobs):
    pytest.importorskip("celery")
    assert main(["submit", jobs({})]) == 3
    assert "No broker is named" in capsys.readouterr().err
