"""One task beside the caller."""

import logging
import threading

import pytest
from wan_s2v_pack.wan_s2v_model.runs.finish import BackgroundWorker


def fail():
    raise OSError("disk full")


def test_a_task_runs_beside_the_caller_and_the_next_waits_for_it():
    go, log = threading.Event(), []

    def slow():
        go.wait(10)
        log.append("slow")

    with BackgroundWorker("test") as background:
        background.submit(slow)
        log.append("caller")
        go.set()
        background.submit(lambda: log.append("next"))
        assert log[:2] == ["caller", "slow"]
    assert log == ["caller", "slow", "next"]


def test_leaving_waits():
    log = []
    with BackgroundWorker("test") as background:
        background.submit(lambda: log.append(threading.current_thread().name))
    assert log[0].startswith("wan_s2v_test")


def test_an_error_comes_out_at_the_next_task():
    log = []

    def run_two():
        with BackgroundWorker("test") as background:
            background.submit(fail)
            background.submit(lambda: log.append("never"))

    with pytest.raises(OSError, match="disk full"):
        run_two()
    assert not log


def run_and_raise(error):
    with BackgroundWorker("test") as background:
        background.submit(fail)
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [None, ValueError("because of it")])
def test_an_error_comes_out_at_the_end(error):
    with pytest.raises(OSError, match="disk full") as raised:
        run_and_raise(error)
    assert raised.value.__context__ is error


def test_an_interrupt_goes_first_and_the_error_is_logged(caplog):
    with caplog.at_level(logging.ERROR, "wan_s2v"), pytest.raises(KeyboardInterrupt):
        run_and_raise(KeyboardInterrupt())
    assert "disk full" in caplog.text
