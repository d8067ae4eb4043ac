"""Turns by times: what can be written, and whose frames they are."""

import pytest
from wan_s2v_pack.wan_s2v_model.audio.turns import Turn, parse_turns, spans_of

TEXT = """
# who speaks
0:00 1
4.5s 2
0:09.25: speaker 1
1:02:03 1, 2 and 3
"""


def test_times_and_names():
    assert [(turn.start_s, sorted(turn.speakers)) for turn in parse_turns(TEXT)] == [
        (0, [1]),
        (4.5, [2]),
        (9.25, [1]),
        (3723, [1, 2, 3]),
    ]


@pytest.mark.parametrize("who", ["nobody", "Nobody", "-"])
def test_nobody(who):
    assert parse_turns(f"0s {who}") == (Turn(0, frozenset()),)


@pytest.mark.parametrize("text", ["", "\n\n", "# none"])
def test_without_turns_all_speak_all_the_time(text):
    assert parse_turns(text) == ()
    assert spans_of((), 2, 16) == [(0, None)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0:05 1", "The first turn begins at 5 s"),
        ("0:00 1\n0:00 2", "Line 2 of the turns begins at 0 s, not behind"),
        ("0:00 1\n\n0:04 2\n0:03 1", "Line 4 of the turns begins at 3 s"),
        ("0:00", "Line 1 of the turns cannot be read"),
        ("0:00 Anna", "cannot be read: got '0:00 Anna'"),
        ("0:00 and", "cannot be read"),
        ("1", "cannot be read"),
        (f"{'9' * 400}s 1", "cannot be read"),  # an infinite number of seconds
        (f"{'9' * 5000}:00 1", "cannot be read: got '9999"),
        (f"0:00 {'1' * 5000}", "cannot be read"),
        ("five 1", "Write a time and who speaks from then on"),
    ],
)
def test_what_cannot_be_read(text, words):
    with pytest.raises(ValueError, match=words):
        parse_turns(text)


def test_frames_of_each_speaker():
    turns = parse_turns("0:00 1\n1s 2\n1.5s 1 2\n2.01s nobody\n3s 2")
    assert spans_of(turns, 1, 16) == [(0, 16), (24, 32)]
    assert spans_of(turns, 2, 16) == [(16, 24), (24, 32), (48, None)]
    assert spans_of(turns, 3, 16) == []
    assert spans_of(turns, 1, 25) == [(0, 25), (38, 50)]
