"""The progress where ComfyUI was started; until now it said nothing there between two finished clips."""

import io
import logging

import pytest
from wan_s2v_pack.wan_s2v_model.sampling.progress_log import HEARTBEAT_S, ProgressLog

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
    with ProgressLog(io.StringIO(), clock) as log:
        for clock.now in range(0, 601, 7):
            log.show(f"after {clock.now} s")
    assert len(messages()) == 9
    assert messages()[0] == "after 63 s"
    assert HEARTBEAT_S == 60


def test_a_message_of_the_run_takes_the_place_of_a_heartbeat(clock, messages):
    with ProgressLog(io.StringIO(), clock) as log:
        clock.now = 59.0
        logging.getLogger("wan_s2v").info("clip 0 finished")
        clock.now = 61.0
        log.show("clip 1")
        clock.now = 120.0
        log.show("clip 2")
    assert messages() == ["clip 0 finished", "clip 2"]


def test_terminal_has_one_line_of_at_most_80_columns(clock, messages, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    with ProgressLog(terminal, clock) as log:
        log.show(LONG)
        clock.now = 1000.0
        log.show("clip 1")
    first, second, *_ = terminal.getvalue().split("\r")[1:]
    assert first == LONG[:79]
    assert second.rstrip() == "clip 1"
    assert "\n" not in terminal.getvalue()
    assert messages() == []


def test_messages_do_not_run_into_the_line_of_a_terminal(clock):
    terminal = Terminal()
    logger = logging.getLogger("wan_s2v")
    console = logging.StreamHandler(terminal)
    with ProgressLog(terminal, clock) as log:
        logger.addHandler(console)
        try:
            log.show("clip 0, step 1")
            logger.warning("a message")
        finally:
            logger.removeHandler(console)
    assert "\r" + len("clip 0, step 1") * " " + "\ra message\n" in terminal.getvalue()


def test_nothing_stays_behind(clock):
    handlers = list(logging.getLogger("wan_s2v").handlers)
    with pytest.raises(RuntimeError), ProgressLog(Terminal(), clock):
        raise RuntimeError
    assert logging.getLogger("wan_s2v").handlers == handlers
