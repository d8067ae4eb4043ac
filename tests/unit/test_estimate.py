"""Tokens and work of a plan."""

import pytest
from wan_s2v_pack.wan_s2v_model.estimate import describe_plan, flop_per_call, num_tokens
from wan_s2v_pack.wan_s2v_model.rope import token_positions
from wan_s2v_pack.wan_s2v_model.timeline import plan_timeline


@pytest.mark.parametrize(
    ("height", "width", "with_motion", "tokens", "petaflop"),
    [
        (60, 104, False, 32_760, 1.72),
        (60, 104, True, 35_074, 1.90),
        (56, 104, True, 32_760, 1.72),
        (64, 96, True, 34_560, 1.86),
        (88, 128, False, 59_136, 4.38),
        (88, 128, True, 63_360, 4.90),
        (88, 160, True, 79_200, 7.16),
    ],
)
def test_table_of_the_14b_model(height, width, with_motion, tokens, petaflop):
    assert num_tokens(20, height, width, with_motion) == tokens
    assert flop_per_call(tokens) / 1e15 == pytest.approx(petaflop, rel=0.01)


@pytest.mark.parametrize("size", [(8, 12), (60, 104), (10, 14)])
@pytest.mark.parametrize("with_motion", [True, False])
def test_tokens_are_those_of_the_transformer(size, with_motion):
    assert num_tokens(3, *size, with_motion) == len(token_positions(3, *size, with_motion))


def describe(num_frames):
    timeline = plan_timeline(num_frames * 1000, 16_000, num_frames * 1000)
    return describe_plan(timeline, 480, 832, num_frames / 16)


def test_description_names_size_frames_and_work():
    lines = describe(150)
    assert lines == ["832 x 480   150 frames   9.38 s   2 clips of 80", "sync: aligned   35,074 tokens   1.90 PFLOP per model call"]


@pytest.mark.parametrize(("num_frames", "is_noted"), [(157, False), (158, True), (176, True), (177, False), (3, False)])
def test_description_notes_a_nearly_empty_last_clip(num_frames, is_noted):
    assert any("saves one clip" in line for line in describe(num_frames)) == is_noted


def test_note_says_how_much_sound_saves_a_clip():
    assert describe(160)[-1] == "the last clip shows only 3 frames: 0.19 s less sound saves one clip"
