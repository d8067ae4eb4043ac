"""`scripts/test --quick`: what it runs, what it says, and when it fails."""

from __future__ import annotations

import sys

import pytest
from wan_s2v_pack.scripts import quick


@pytest.fixture
def run(monkeypatch, capsys):
    """Checks, each a piece of Python -> exit status and output."""

    def run_checks(**pieces):
        monkeypatch.setattr(quick, "checks", lambda arguments: {name: [sys.executable, "-c", piece] for name, piece in pieces.items()})
        return quick.main([]), capsys.readouterr().out

    return run_checks


def test_all_checks_run_and_the_failed_ones_are_named(run):
    code, text = run(first="import sys; sys.exit(3)", second="pass")
    assert code == 1
    assert "== first: FAILED, " in text
    assert "== second: passed, " in text
    assert "s of CPU, FAILED: first\n" in text


def test_the_time_is_that_of_the_cpu(run):
    code, text = run(waits="import time; time.sleep(0.5)")
    cpu_s, wall_s = (float(part.split()[0]) for part in text.splitlines()[0].split(", ")[1:])
    assert code == 0
    assert cpu_s < wall_s
    assert wall_s >= 0.5


def test_more_than_a_minute_is_said(run, monkeypatch):
    monkeypatch.setattr(quick, "MOST_CPU_S", 0)
    assert "more than 0 s: name the slow files in scripts/quick.py" in run(busy="sum(range(10**7))")[1]


def test_arguments_go_to_pytest():
    assert quick.checks(["-k", "timeline"])["quick tests"][-3:] == ["tests/unit", "-k", "timeline"]


def test_files_that_are_left_out_are_there():
    assert [path for path in quick.SLOW_FILES if not (quick.ROOT / "tests" / "unit" / path).exists()] == []
