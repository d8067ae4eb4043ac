"""The progress where ComfyUI was started; until now it said nothing there between two finished clips."""

import io
import logging
import threading
import time

import pytest
from wan_s2v_pack.wan_s2v_model.sampling import progress
from wan_s2v_pack.wan_s2v_model.sampling.progress import HEARTBEAT_S, ProgressLog

LONG = "clip 720 of 720, step 39/40, 1000:00:00 elapsed, 49:59:47 left" + 40 * "."


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "wan_s2v")
    return lambda: caplog.messages


def test_log_has_one_line_a_minute(clock, messages):
    with ProgressLog(lambda: f"after {clock.now} s", io.StringIO(), clock) as log:
        for clock.now in range(0, 601, 7):
            log.show()
    assert len(messages()) == 9
    assert messages()[0] == "after 63 s"
    assert HEARTBEAT_S == 60


def test_a_message_of_the_run_takes_the_place_of_a_heartbeat(clock, messages):
    with ProgressLog(lambda: f"after {clock.now:g} s", io.StringIO(), clock) as log:
        clock.now = 59.0
        logging.getLogger("wan_s2v").info("clip 1 finished")
        clock.now = 61.0
        log.show()
        clock.now = 120.0
        log.show()
    assert messages() == ["clip 1 finished", "after 120 s"]


def test_terminal_has_one_line_of_at_most_80_columns(clock, messages, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    lines = iter((LONG,))
    with ProgressLog(lambda: next(lines, "clip 1"), terminal, clock) as log:
        log.show()
        clock.now = 1000.0
        log.show()
    first, second, *_ = terminal.getvalue().split("\r")[1:]
    assert first == LONG[:79]
    assert second.rstrip() == "clip 1"
    assert "\n" not in terminal.getvalue()
    assert messages() == []


def test_messages_do_not_run_into_the_line_of_a_terminal(clock):
    terminal = Terminal()
    logger = logging.getLogger("wan_s2v")
    console = logging.StreamHandler(terminal)
    with ProgressLog(lambda: "clip 1, step 1", terminal, clock) as log:
        logger.addHandler(console)
        try:
            log.show()
            logger.warning("a message")
        finally:
            logger.removeHandler(console)
    assert "\r" + len("clip 1, step 1") * " " + "\ra message\n" in terminal.getvalue()


def test_nothing_stays_behind(clock):
    handlers = list(logging.getLogger("wan_s2v").handlers)
    with pytest.raises(KeyboardInterrupt), ProgressLog(str, Terminal(), clock):
        raise KeyboardInterrupt if "wan_s2v_progress" in names_of_threads() else AssertionError
    assert logging.getLogger("wan_s2v").handlers == handlers
    assert "wan_s2v_progress" not in names_of_threads()


def names_of_threads():
    return [thread.name for thread in threading.enumerate()]


def test_log_goes_on_while_nobody_calls(messages, monkeypatch):
    """A line came only when a step ended, so a decode of minutes was silent."""
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(progress, "LOOK_AGAIN_S", 0.01)
    start_s = time.monotonic()
    with ProgressLog(lambda: "clip 1 of 2, decoding", io.StringIO()):
        while len(messages()) < 3 and time.monotonic() - start_s < 10:
            time.sleep(0.01)
    assert messages()[:3] == ["clip 1 of 2, decoding"] * 3
    assert time.monotonic() - start_s >= 0.15
