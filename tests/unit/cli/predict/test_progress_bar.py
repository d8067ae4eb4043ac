"""What `predict` shows while it waits."""

from __future__ import annotations

import io
import re

import pytest
from wan_s2v_pack.cli.comfyui.client import Progress as Report
from wan_s2v_pack.cli.comfyui.client import Stage
from wan_s2v_pack.cli.predict.graph import SAMPLER, add_node, quick_start
from wan_s2v_pack.cli.predict.progress_bar import LOG_EVERY_S, ProgressBar
from wan_s2v_pack.wan_s2v_model.sampling.progress import Progress

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


def step(bar, clock, value, now_s, clips=3):
    clock.now_s = now_s
    bar.on_progress(Report(SAMPLER_ID, value, clips * STEPS))


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
    step(bar, clock, 0, 100.0)
    assert bar.line() == "clip 1 of 3, step 0/40 [------------------------------------] 0 %, 0:00 elapsed"
    step(bar, clock, 1, 120.0)
    assert bar.line() == "clip 1 of 3, step 1/40 [------------------------------------] 1 %, 0:20 elapsed"
    for value in range(2, 61):
        step(bar, clock, value, 120.0 + (value - 1) * 65)
    assert bar.line() == "clip 2 of 3, step 20/40 [########---------] 50 %, 1:04:15 elapsed, 1:05:00 left"
    clock.now_s += 30
    assert bar.line().endswith("1:04:45 elapsed, 1:04:30 left")


def test_behind_its_last_step_a_clip_is_decoded_until_the_next_one_begins(bar, clock):
    """The node says the number of its last step again when the next clip begins."""
    for value in (STEPS - 1, STEPS):
        step(bar, clock, value, float(value))
    assert bar.line().startswith("clip 1 of 3, decoding [")
    step(bar, clock, STEPS, 50.0)
    assert bar.line().startswith("clip 2 of 3, step 0/40 [")


def test_time_left_is_the_one_on_the_node(bar, clock):
    """The command line counted steps alone, the node clips with their decoding."""
    node = Progress(3, STEPS, clock=clock)
    bar.on_stage(Stage(SAMPLER_ID))
    for clip in range(2):
        node.begin(clip)
        step(bar, clock, clip * STEPS, clock.now_s)
        for value in range(clip * STEPS + 1, (clip + 1) * STEPS + 1):
            step(bar, clock, value, clock.now_s + 3.0)
            node.step(value)
        clock.now_s += 50.0
    assert node.seconds_left() == pytest.approx(170)
    assert bar.line().endswith("5:40 elapsed, 2:50 left")


def test_finished_clips_of_an_earlier_run_do_not_count_in_the_pace(bar, clock):
    bar.on_stage(Stage(SAMPLER_ID))
    step(bar, clock, 2 * STEPS + 1, 10.0)
    step(bar, clock, 2 * STEPS + 2, 12.0)
    assert bar.line().endswith("1:16 left")


def test_another_node_starts_anew(bar, clock):
    bar.on_stage(Stage(SAMPLER_ID))
    step(bar, clock, 3, 10.0)
    bar.on_stage(Stage("12"))
    assert bar.line() == SAVE


def test_progress_of_other_nodes(log, clock):
    prompt = quick_start()
    node = add_node(prompt, "Other", "Other", {})
    bar = ProgressBar(prompt, log, clock)
    bar.on_stage(Stage(node))
    bar.on_progress(Report(node, 1, 4))
    assert re.fullmatch(r"Other \[#{13}-{39}\] 25 %, 0:00 elapsed", bar.line())


@pytest.mark.parametrize("columns", [200, 80, 60])
def test_time_left_fits_in_80_columns_and_in_the_terminal(columns, bar, clock, monkeypatch):
    """With a bar of 24 cells the end of the line, the time left, was cut off on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    step(bar, clock, 1, 10.0, clips=720)
    step(bar, clock, 119 * STEPS + 1, 35_700.0, clips=720)
    assert len(bar.line()) < min(columns, 81)
    assert columns < 80 or bar.line().endswith("9:54:50 elapsed, 50:04:09 left")


def test_log_has_a_line_per_node_and_clip_and_now_and_then(bar, clock, log):
    bar.on_stage(Stage("5"))
    bar.on_stage(Stage(SAMPLER_ID))
    for value in range(1, 2 * STEPS + 1):
        step(bar, clock, value, value * 0.7, clips=2)
    steps = [line.split(" [")[0] for line in log.getvalue().splitlines()]
    assert LOG_EVERY_S == 60
    assert steps == [PORTRAIT, "Sample Video (Wan S2V)", "clip 1 of 2, step 1/40", "clip 2 of 2, step 1/40"]
    step(bar, clock, 2 * STEPS, clock.now_s + LOG_EVERY_S, clips=2)
    assert log.getvalue().splitlines()[-1].startswith("clip 2 of 2, decoding [####")


def test_terminal_has_one_line_that_is_drawn_over(clock):
    terminal = Terminal()
    with ProgressBar(quick_start(), terminal, clock) as bar:
        bar.on_stage(Stage("12"))
        bar.on_stage(Stage("5"))
    assert terminal.getvalue() == f"\rqueued\r{SAVE}\r{PORTRAIT:{len(SAVE)}}\n"


def test_node_whose_start_was_not_heard(bar, clock):
    step(bar, clock, 3, now_s=5)
    assert bar.line().startswith("clip 1 of 3, step 3/40 [")
