"""A process that computes is told from one that only waits."""

import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli.comfyui import activity
from wan_s2v_pack.cli.comfyui.activity import Patience, seconds_computed


@pytest.fixture
def clock(monkeypatch):
    clock = Mock(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(activity, "time", clock)
    return clock


def test_patience_ends_when_nothing_was_done_for_so_long(clock):
    work = [1]
    patience = Patience(10, lambda: work[0])
    clock.now = 9.9
    assert not patience.is_over()
    clock.now = 10
    assert patience.is_over()


def test_patience_begins_anew_with_whatever_is_done(clock):
    work = [1]
    patience = Patience(10, lambda: work[0])
    for _ in range(100):
        clock.now += 100
        work[0] += 1
        assert not patience.is_over()
    clock.now += 9
    assert not patience.is_over()


def test_what_a_process_and_its_children_compute_counts():
    child = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", child]) as process:
        try:
            while seconds_computed(process.pid) < 1:
                assert process.poll() is None
        finally:
            for each in (*children(process.pid), process):
                each.kill()


def children(pid):
    import psutil

    return psutil.Process(pid).children(recursive=True)


def test_a_process_that_is_not_there_or_cannot_be_asked_computes_nothing(monkeypatch):
    assert seconds_computed(2**30) == 0
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert seconds_computed(os.getpid()) == 0
