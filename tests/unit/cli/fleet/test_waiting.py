"""What is shown of a job while one waits for it."""

import pytest
from wan_s2v_pack.cli.fleet import waiting
from wan_s2v_pack.cli.fleet.states import JobState

RUNNING = {"clip": 2, "clips": 4, "step": 10, "steps": 40, "left_s": 65.0}


@pytest.mark.parametrize(
    ("state", "words", "share"),
    [
        (JobState("a", "QUEUED"), "waiting", 0.0),
        (JobState("a", "PROGRESS", info={"lost": 0}), "begun", 0.0),
        (JobState("a", "PROGRESS", info=RUNNING), "clip 2 of 4, step 10/40, 1:05 left", 0.3125),
        (JobState("a", "PROGRESS", info={"clip": 4, "clips": 4, "step": None, "left_s": None}), "clip 4 of 4", 0.75),
        (JobState("a", "SUCCESS", info={"seconds": 61.0, "video": "a.mp4"}), "made in 1:01: a.mp4", 1.0),
        (JobState("a", "FAILURE", error="no sound"), "failed: no sound", 0.0),
        (JobState("a", "REVOKED"), "cancelled, or past its deadline", 0.0),
    ],
)
def test_a_state_in_words_and_as_a_share(state, words, share):
    assert (waiting.words(state), waiting.share_of(state)) == (words, share)


class Script:
    """In place of the states: what each look finds, the last one for ever."""

    def __init__(self, *found):
        self.found = list(found)

    def read(self, name):
        state, info = self.found[0] if len(self.found) == 1 else self.found.pop(0)
        return JobState(name, state, info=info)


def test_a_log_has_a_line_for_each_clip(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "LOOK_S", 0.0)
    steps = [("PROGRESS", {**RUNNING, "clip": clip, "step": step}) for clip in (1, 2) for step in (1, 2)]
    (state,) = waiting.wait_for(Script(("QUEUED", {}), *steps, ("SUCCESS", {"seconds": 1.0, "video": "a.mp4"})), ["a"])
    assert state.state == "SUCCESS"
    assert capsys.readouterr().err == "a: waiting\na: clip 1 of 4\na: clip 2 of 4\na: made in 0:01: a.mp4\n"


def test_a_terminal_has_a_bar_for_each_job(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "LOOK_S", 0.0)
    monkeypatch.setattr(waiting.sys.stderr, "isatty", lambda: True, raising=False)
    waiting.wait_for(Script(("SUCCESS", {"seconds": 1.0, "video": "a.mp4"})), ["a", "b"])
    shown = capsys.readouterr().err
    assert [f"{name} [{'#' * 24}] 100 %" in shown for name in "ab"] == [True, True]
