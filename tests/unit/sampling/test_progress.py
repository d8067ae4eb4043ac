"""What a person is told about how far a run is."""

import time

import pytest
from wan_s2v_pack.wan_s2v_model.sampling.progress import Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_line_names_clip_step_and_times(clock):
    progress = Progress(4, 10, clock=clock)
    clock.now += 50
    assert progress.line(5) == "clip 0 (1 of 4), step 5/10, 0:50 elapsed, 5:50 left"


@pytest.mark.parametrize(
    ("done", "place"), [(1, "clip 0 (1 of 3), step 1/2,"), (2, "clip 0 (1 of 3), step 2/2,"), (3, "clip 1 (2 of 3), step 1/2,")]
)
def test_last_step_of_a_clip_belongs_to_it(clock, done, place):
    assert Progress(3, 2, clock=clock).line(done).startswith(place)


def test_clips_of_an_earlier_start_do_not_count_in_the_pace(clock):
    progress = Progress(100, 10, first_clip=90, clock=clock)
    clock.now += 10
    assert progress.seconds_left(905) == pytest.approx(9.5 * 20)


def test_steps_count_by_their_model_calls_in_the_pace(clock):
    progress = Progress(2, 3, calls_of_steps=(3, 2, 1), clock=clock)
    times = []
    for done, calls in enumerate((3, 2, 1, 3, 2, 1), start=1):
        clock.now += 10 * calls
        times.append(progress.seconds_left(done))
    assert times == pytest.approx([90, 70, 60, 30, 10, 0])


def test_finished_clips_set_the_pace_with_their_decoding(clock):
    progress = Progress(10, 10, clock=clock)
    clock.now += 100  # 60 s of them for the steps
    progress.finish_clip(0)
    clock.now += 6
    assert progress.seconds_left(11) == pytest.approx(9 * 100 - 6)


def test_nothing_is_promised_before_the_first_step(clock):
    progress = Progress(10, 10, clock=clock)
    assert progress.seconds_left(0) is None
    assert progress.line(0) == "clip 0 (1 of 10), step 1/10, 0:00 elapsed"


def test_late_clip_does_not_give_negative_times(clock):
    progress = Progress(2, 10, clock=clock)
    clock.now += 10
    progress.finish_clip(0)
    clock.now += 100
    assert progress.seconds_left(19) == 0


def test_a_changed_clock_changes_nothing(monkeypatch):
    progress = Progress(2, 10)
    monkeypatch.setattr(time, "time", lambda: -1e9)
    assert progress.line(1).startswith("clip 0 (1 of 2), step 1/10, 0:00 elapsed, 0:0")
