"""What `predict` shows while it waits."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from wan_s2v_pack.cli.comfyui.client import Progress as Report
from wan_s2v_pack.cli.comfyui.client import Stage, Text
from wan_s2v_pack.cli.predict import progress_bar
from wan_s2v_pack.cli.predict.graph import SAMPLER, add_node, quick_start
from wan_s2v_pack.cli.predict.progress_bar import LOG_EVERY_S, ProgressBar
from wan_s2v_pack.wan_s2v_model.sampling.progress import Progress
from wan_s2v_pack.wan_s2v_model.time_text import duration

PORTRAIT, SAVE = (quick_start()[node]["_meta"]["title"] for node in ("5", "12"))
SAMPLER_ID = next(key for key, node in quick_start().items() if node["class_type"] == SAMPLER)
STEPS = 40


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def bar(log, clock):
    return ProgressBar(quick_start(), log, clock)


class Node:
    """The sampler on the server, and what it sends: a text, then the bar."""

    def __init__(self, bar, clock, clips=3, **progress):
        self.bar, self.clock, self.clips = bar, clock, clips
        self.progress = Progress(clips, STEPS, clock=clock, **progress)

    def begin(self, clip, now_s):
        self.clock.now_s = now_s
        self.progress.begin(clip)
        self.send(clip * STEPS)

    def step(self, value, now_s):
        self.clock.now_s = now_s
        self.progress.step(value)
        self.send(value)

    def send(self, value):
        self.tell()
        self.bar.on_progress(Report(SAMPLER_ID, value, self.clips * STEPS))

    def tell(self):
        self.bar.on_text(Text(SAMPLER_ID, self.progress.line() + "\nkept as run 'me'"))


@pytest.fixture
def node(bar, clock):
    return Node(bar, clock)


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        (Stage(), "queued"),
        (Stage(jobs_before=1), "waiting in the queue, 1 job before"),
        (Stage(jobs_before=3), "waiting in the queue, 3 jobs before"),
        (Stage("5"), PORTRAIT),
        (Stage(SAMPLER_ID), "Sample Video (Wan S2V)"),
    ],
)
def test_stages(stage, text, bar):
    bar.on_stage(stage)
    assert bar.line() == text


def test_sampling_says_clip_step_time_so_far_and_time_left(bar, clock):
    clock.now_s = 100.0
    bar.on_stage(Stage(SAMPLER_ID))
    node = Node(bar, clock)
    node.begin(0, 100.0)
    assert bar.line() == "clip 1 of 3, step 0/40 [------------------------------------] 0 %, 0:00 elapsed"
    node.step(1, 120.0)
    assert bar.line() == "clip 1 of 3, step 1/40 [------------------------------------] 1 %, 0:20 elapsed"
    for value in range(2, 61):
        node.step(value, 120.0 + (value - 1) * 65)
    assert bar.line() == "clip 2 of 3, step 20/40 [########---------] 50 %, 1:04:15 elapsed, 1:05:00 left"
    clock.now_s += 30
    assert bar.line().endswith("1:04:45 elapsed, 1:04:30 left")


def test_what_is_done_beside_the_steps_is_named(bar, node):
    """Encoding for the next clip was called decoding."""
    for value in (STEPS - 1, STEPS):
        node.step(value, float(value))
    assert bar.line().startswith("clip 1 of 3, decoding [")
    with node.progress.phase("encoding"):
        node.tell()
        assert bar.line().startswith("clip 1 of 3, encoding [")
    node.begin(1, 50.0)
    assert bar.line().startswith("clip 2 of 3, step 0/40 [")


@pytest.mark.parametrize("work", [[1.0] * STEPS, [2.0] * 8 + [1.0] * 32, [1.0] * 30 + [1.5] * 10])
def test_time_left_is_the_one_on_the_node(work, bar, clock):
    """The command line took all steps for equally long; with guidance in a part of them or several GPUs it estimated something else."""
    node = Node(bar, clock, calls_of_steps=work)
    for clip in range(2):
        node.begin(clip, clock.now_s)
        for value, calls in enumerate(work, clip * STEPS + 1):
            node.step(value, clock.now_s + 3.0 * calls)
            left = node.progress.seconds_left()
            assert left is None or bar.line().endswith(f"{duration(left)} left")
        clock.now_s += 50.0
    assert left == pytest.approx(3 * sum(work) + 2 * 50)


def test_text_of_another_node_or_another_kind_says_nothing(bar, node):
    node.step(1, 10.0)
    line = bar.line()
    bar.on_text(Text("12", "clip 3 of 3, step 2/40, 0:10 elapsed"))
    bar.on_text(Text(SAMPLER_ID, "113 frames, 7.06 s, made in 18:05"))
    assert bar.line() == line


def test_sampler_that_tells_nothing_gets_no_estimate(bar, clock):
    for value in range(1, 9):
        clock.now_s = value * 10.0
        bar.on_progress(Report(SAMPLER_ID, value, 3 * STEPS))
    assert re.fullmatch(r"Sample Video \(Wan S2V\) \[#+-+\] 7 %, 1:10 elapsed", bar.line())


def test_another_node_starts_anew(bar, node):
    bar.on_stage(Stage(SAMPLER_ID))
    node.step(3, 10.0)
    bar.on_stage(Stage("12"))
    assert bar.line() == SAVE


def test_progress_of_other_nodes(log, clock):
    prompt = quick_start()
    node = add_node(prompt, "Other", "Other", {})
    bar = ProgressBar(prompt, log, clock)
    bar.on_stage(Stage(node))
    bar.on_progress(Report(node, 1, 4))
    assert re.fullmatch(r"Other \[#{13}-{39}\] 25 %, 0:00 elapsed", bar.line())
    clock.now_s = 10.0
    bar.on_progress(Report(node, 2, 4))
    assert bar.line().endswith("50 %, 0:10 elapsed, 0:20 left")
    for value, whole in ((0, 3), (3, 3), (1, 3), (5, 3), (7, 9)):
        bar.on_progress(Report(node, value, whole))
    assert "78 %" in bar.line()


@pytest.mark.parametrize("columns", [200, 80, 60])
def test_time_left_fits_in_80_columns_and_in_the_terminal(columns, bar, clock, monkeypatch):
    """With a bar of 24 cells the end of the line, the time left, was cut off on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    node = Node(bar, clock, clips=720)
    node.step(1, 10.0)
    node.step(119 * STEPS + 1, 35_700.0)
    assert len(bar.line()) < min(columns, 81)
    assert columns < 80 or bar.line().endswith("9:54:50 elapsed, 50:04:09 left")


def test_log_has_a_line_per_node_and_clip_and_now_and_then(bar, clock, log):
    bar.on_stage(Stage("5"))
    bar.on_stage(Stage(SAMPLER_ID))
    node = Node(bar, clock, clips=2)
    for value in range(1, 2 * STEPS + 1):
        node.step(value, value * 0.7)
    steps = [line.split(" [")[0] for line in log.getvalue().splitlines()]
    assert LOG_EVERY_S == 60
    assert steps == [PORTRAIT, "Sample Video (Wan S2V)", "clip 1 of 2, step 1/40", "clip 2 of 2, step 1/40"]
    node.step(2 * STEPS, clock.now_s + LOG_EVERY_S)
    assert log.getvalue().splitlines()[-1].startswith("clip 2 of 2, decoding [####")


def test_terminal_has_one_line_that_is_drawn_over(clock):
    terminal = Terminal()
    with ProgressBar(quick_start(), terminal, clock) as bar:
        bar.on_stage(Stage("12"))
        bar.on_stage(Stage("5"))
    assert terminal.getvalue() == f"\rqueued\r{SAVE}\r{PORTRAIT:{len(SAVE)}}\n"


def test_log_goes_on_while_the_server_says_nothing(log, monkeypatch):
    """A line came only when a step ended, so a decode of minutes was silent."""
    monkeypatch.setattr(progress_bar, "LOG_EVERY_S", 0.05)
    monkeypatch.setattr(progress_bar, "LOOK_AGAIN_S", 0.01)
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wait_in_vain(log)
    assert time.monotonic() - start_s >= 0.1
    assert {line[:22] for line in log.getvalue().splitlines()} == {"clip 1 of 2, decoding,"}
    assert "wan_s2v_progress" not in [thread.name for thread in threading.enumerate()]


def wait_in_vain(log):
    """Until the log has three lines; then somebody presses Ctrl-C."""
    with ProgressBar(quick_start(), log) as bar:
        bar.on_text(Text(SAMPLER_ID, "clip 1 of 2, decoding, 0:40 elapsed, 1:00 left"))
        deadline_s = time.monotonic() + 10
        while len(log.getvalue().splitlines()) < 3:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        raise KeyboardInterrupt


def test_a_node_without_steps_says_the_time_so_far(bar, clock):
    bar.on_stage(Stage("12"))
    clock.now_s = 75.0
    assert bar.line() == f"{SAVE}, 1:15 elapsed"


def test_node_whose_start_was_not_heard(bar, node):
    node.step(3, now_s=5)
    assert bar.line().startswith("clip 1 of 3, step 3/40 [")
