"""Every command on consoles with few letters: nothing that it says ends it, whatever files and jobs are called."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import pytest
from wan_s2v_pack.cli import doctor
from wan_s2v_pack.cli.__main__ import COMMANDS, main
from wan_s2v_pack.cli.doctor.models import ModelFound
from wan_s2v_pack.cli.models.headers import REPLACE
from wan_s2v_pack.tests.run_folders import make_run
from wan_s2v_pack.tests.unit.cli.doctor.test_doctor import with_models
from wan_s2v_pack.tests.unit.cli.fleet.conftest import forget_other_folders

NAME = "你好 Ünïcode"
ENCODINGS = ("cp1252", "cp437", "ascii")


@pytest.fixture(params=ENCODINGS)
def console(request, monkeypatch):
    """Run a command on such a console; return what it wrote there, both streams in one. Its exit status must be one of a command."""

    def run(*words):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=request.param)
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        stream.flush()
        assert status in range(5)
        return stream.buffer.getvalue().decode(request.param)

    run.shown = NAME.encode(request.param, errors="backslashreplace").decode(request.param)
    return run


def commands():
    """The words of every command and of those below it."""
    parser = argparse.ArgumentParser()
    below = parser.add_subparsers()
    for command in COMMANDS:
        command.add_parser(below)
    return list(words_of(parser))


def words_of(parser, *words):
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, inner in {name: inner for found in choices for name, inner in found.items()}.items():
        yield from words_of(inner, *words, name)
    if not choices:
        yield words


def test_the_commands_are_found():
    assert {("predict",), ("worker",), ("submit",), ("jobs", "dead"), ("runs", "list")} <= set(commands())


def test_every_help_can_be_written(console):
    for words in commands():
        assert "usage: " in console(*words, "--help")


@pytest.fixture
def place(tmp_path):
    make_run(tmp_path / NAME / "wan_s2v_runs", NAME, num_clips=1)
    return tmp_path / NAME


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "list"),
        ("runs", "show", NAME),
        ("runs", "verify", NAME),
        ("runs", "delete", NAME),
        ("runs", "show", f"{NAME}?"),
    ],
)
def test_runs_of_any_name(console, place, words):
    assert console.shown in console(*words, "--output-dir", place)


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "--image", NAME),
        ("download", "--models-dir", NAME),
        ("convert", NAME, "--to", "int8"),
        ("submit", NAME, "--broker", "folder"),
        ("worker", "--broker", f"{NAME}://"),
    ],
)
def test_what_is_not_there(console, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert "Traceback" not in console(*words)


def test_models_of_any_name(console, monkeypatch):
    monkeypatch.setattr(doctor, "collect", lambda **_: with_models(vae=(ModelFound(NAME, 0, problem="it is cut off", advice=REPLACE),)))
    assert console.shown in console("doctor")
    assert json.dumps(NAME)[1:-1] in console("doctor", "--json")


def test_jobs_of_any_name(console, tmp_path):
    pytest.importorskip("celery")
    pytest.importorskip("fsspec")
    forget_other_folders()
    files = {name: str(tmp_path / f"{NAME}.{end}") for name, end in (("image", "png"), ("audio", "wav"), ("output", "mp4"))}
    for name in ("image", "audio"):
        Path(files[name]).touch()
    lines, broker = (
        tmp_path / f"{NAME}.jsonl",
        ("--broker", str(tmp_path / "fleet")),
    )  # Windows: not every letter can be in it
    lines.write_text(json.dumps({**files, "run_name": NAME}), encoding="utf-8")
    assert f"{console.shown}  QUEUED" in console("submit", lines, *broker)
    for words in (("list",), ("cancel", NAME), ("retry", NAME), ("retry", f"{NAME} 2")):
        assert console.shown in console("jobs", *words, *broker)
    assert json.dumps(NAME)[1:-1] in console("jobs", "list", "--json", *broker)
    lines.write_text(json.dumps({**files, NAME: 1}), encoding="utf-8")
    assert console.shown in console("submit", lines, *broker)
