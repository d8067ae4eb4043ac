"""What a person is told about how far a run is."""

import time

import pytest
from wan_s2v_pack.wan_s2v_model.sampling.progress import Line, Progress, read_line, video_size


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def run_steps(progress, clock, steps, seconds=10.0):
    """Take the steps, each in so many seconds."""
    for done in steps:
        clock.now += seconds
        progress.step(done)


def test_line_names_clip_step_and_times(clock):
    progress = Progress(4, 10, clock=clock)
    run_steps(progress, clock, range(1, 6))
    assert progress.line() == "clip 1 of 4, step 5/10, 0:50 elapsed, 5:50 left"


def test_a_clip_begins_before_its_first_step(clock):
    progress = Progress(3, 2, clock=clock)
    progress.begin(0)
    assert progress.line() == "clip 1 of 3, step 0/2, 0:00 elapsed"
    run_steps(progress, clock, [1, 2])
    progress.begin(1)
    assert progress.place() == "clip 2 of 3, step 0/2"
    run_steps(progress, clock, [3])
    assert progress.place() == "clip 2 of 3, step 1/2"


def test_behind_its_last_step_a_clip_is_decoded(clock):
    """The text stayed at the last step for as long as decoding took."""
    progress = Progress(3, 2, clock=clock)
    run_steps(progress, clock, [1, 2])
    assert progress.line() == "clip 1 of 3, decoding, 0:20 elapsed, 0:40 left"


def test_a_line_can_be_read_again(clock):
    progress = Progress(40, 10, clock=clock)
    assert read_line(progress.line()) == Line("clip 1 of 40, step 0/10", None)
    run_steps(progress, clock, range(1, 6), seconds=100.0)
    assert read_line(f"{progress.line()}\nkept as run 'a_2'") == Line("clip 1 of 40, step 5/10", 39_500)
    assert read_line(progress.stop()) is read_line(progress.end(80)) is None


def test_a_phase_stands_in_place_of_the_step(clock):
    progress = Progress(3, 2, clock=clock)
    with progress.phase("encoding"):
        assert progress.line() == "clip 1 of 3, encoding, 0:00 elapsed"
    assert progress.place() == "clip 1 of 3, step 0/2"
    run_steps(progress, clock, [1, 2])
    with pytest.raises(KeyboardInterrupt), progress.phase("encoding"):
        raise KeyboardInterrupt
    assert progress.place() == "clip 1 of 3, decoding"


def test_a_run_that_goes_on_begins_at_its_first_clip(clock):
    progress = Progress(5, 10, first_clip=3, clock=clock)
    assert progress.line() == "clip 4 of 5, step 0/10, 0:00 elapsed"


def test_clips_of_an_earlier_start_do_not_count_in_the_pace(clock):
    progress = Progress(100, 10, first_clip=90, clock=clock)
    run_steps(progress, clock, range(901, 906), 2.0)
    assert progress.seconds_left() == pytest.approx(9.5 * 20)


def test_what_goes_before_the_first_step_does_not_count_in_the_pace(clock):
    """Loading the weights made the first estimates many times too long."""
    progress = Progress(1, 10, clock=clock)
    clock.now += 600
    run_steps(progress, clock, [1, 2])
    assert progress.seconds_left() == pytest.approx(80)


def test_steps_count_by_their_model_calls_in_the_pace(clock):
    progress = Progress(2, 3, calls_of_steps=(3, 2, 1), clock=clock)
    times = []
    for done, calls in enumerate((3, 2, 1, 3, 2, 1), start=1):
        run_steps(progress, clock, [done], 10 * calls)
        times.append(progress.seconds_left())
    assert times[0] is None
    assert times[1:] == pytest.approx([70, 60, 30, 10, 0])


def test_decoding_counts_from_the_second_clip_on(clock):
    progress = Progress(10, 6, clock=clock)
    run_steps(progress, clock, range(1, 7))
    assert progress.seconds_left() == pytest.approx(9 * 60)
    clock.now += 40  # decoding
    run_steps(progress, clock, [7])
    assert progress.seconds_left() == pytest.approx(9 * 100 - 10)
    run_steps(progress, clock, range(8, 13))
    assert progress.seconds_left() == pytest.approx(8 * 100 + 40)


def test_clips_of_one_step_have_a_pace_too(clock):
    progress = Progress(5, 1, clock=clock)
    run_steps(progress, clock, [1])
    assert progress.seconds_left() is None
    run_steps(progress, clock, [2], 30.0)
    assert progress.seconds_left() == pytest.approx(4 * 30)


def test_who_hears_of_the_middle_of_a_clip_first_comes_to_the_same(clock):
    """The command line may join late, and lose its connection for a while."""
    node, late = Progress(10, 6, clock=clock), Progress(10, 6, clock=clock)
    for clip in range(3):
        for step in range(1, 7):
            run_steps(node, clock, [6 * clip + step])
            if clip or step > 3:
                late.step(6 * clip + step)
        clock.now += 40
    assert late.seconds_left() == pytest.approx(node.seconds_left()) == pytest.approx(700)


def test_a_clip_that_is_begun_again_does_not_spoil_the_pace(clock):
    progress = Progress(1, 10, clock=clock)
    run_steps(progress, clock, [1, 2, 3])
    clock.now += 500  # out of memory
    progress.begin(0)
    assert progress.place() == "clip 1 of 1, step 0/10"
    run_steps(progress, clock, [1, 2])
    assert progress.seconds_left() == pytest.approx(80)


def test_nothing_is_promised_before_the_second_step(clock):
    progress = Progress(10, 10, clock=clock)
    assert progress.seconds_left() is None
    run_steps(progress, clock, [1])
    assert progress.line() == "clip 1 of 10, step 1/10, 0:10 elapsed"


def test_late_clip_does_not_give_negative_times(clock):
    progress = Progress(1, 10, clock=clock)
    run_steps(progress, clock, range(1, 10))
    clock.now += 100
    assert progress.seconds_left() == 0


def test_the_end_says_what_was_made_and_no_time_left(clock):
    progress = Progress(3, 40, clock=clock)
    clock.now += 18 * 60 + 5
    assert progress.end(113) == "113 frames, 7.06 s, made in 18:05"
    assert Progress(3, 40, first_clip=1, clock=clock).end(113) == "113 frames, 7.06 s, 2 of 3 clips made in 0:00"
    assert video_size(113) == "113 frames, 7.06 s"


def test_a_stopped_run_says_where(clock):
    progress = Progress(3, 40, clock=clock)
    run_steps(progress, clock, range(1, 58))
    assert progress.stop() == "stopped at clip 2 of 3, step 17/40, after 9:30"


def test_the_longest_line_fits_in_80_columns(clock):
    progress = Progress(720, 40, first_clip=717, clock=clock)
    run_steps(progress, clock, range(717 * 40 + 1, 719 * 40), 3600.0)
    assert " left" in progress.line()
    assert len(progress.line()) < 80


def test_a_changed_clock_changes_nothing(monkeypatch):
    progress = Progress(2, 10)
    monkeypatch.setattr(time, "time", lambda: -1e9)
    progress.step(1)
    assert progress.line() == "clip 1 of 2, step 1/10, 0:00 elapsed"
