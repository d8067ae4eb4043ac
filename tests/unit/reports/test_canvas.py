"""What all drawings share: marks of the time axis, labels, pictures of either type."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.reports.canvas import (
    BACKGROUND,
    DIM_TEXT,
    LABEL_COLUMN,
    LEAST_TICK_GAP,
    LINE_HEIGHT,
    TEXT,
    Canvas,
    fit_lines,
    tick_step,
    to_picture,
)

RED = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(60, 100, 3)


def has(drawing, colour):
    rgb = torch.tensor([int(colour[index : index + 2], 16) for index in (1, 3, 5)])
    return bool(((drawing * 255 - rgb).abs() <= 2).all(dim=-1).any())


@pytest.mark.parametrize(("text", "dimmed"), [("size: 832", True), ("no label", False), ("a label that is too long: 832", False)])
def test_labels_are_dimmed_and_values_stand_in_a_column(text, dimmed):
    canvas = Canvas(400, LINE_HEIGHT)
    canvas.labelled_text(0, 0, text)
    label, value = canvas.to_tensor()[0].split((LABEL_COLUMN, 400 - LABEL_COLUMN), dim=1)
    assert (has(label, DIM_TEXT), has(label, TEXT)) == (dimmed, not dimmed)
    assert not has(value, DIM_TEXT)
    assert has(value, TEXT) or not dimmed


@pytest.mark.parametrize("label", ["assumed: ", ""])
def test_long_lines_go_on_in_their_column(label):
    """A line of the plan ended at the edge of the picture, in the middle of a word."""
    words = "14B model in 32 bits;  4 steps: with the LoRA for few steps, without guidance"
    rows = fit_lines([label + words, "short"], 300)
    assert len(rows) > 2
    assert rows[-1] == "short"
    parts = [row.removeprefix(label if number == 0 else ": ") for number, row in enumerate(rows[:-1])]
    assert " ".join(parts).replace("\N{NO-BREAK SPACE}", " ") == words
    for row in rows:
        canvas = Canvas(320, LINE_HEIGHT)
        canvas.labelled_text(0, 0, row)
        drawing = canvas.to_tensor()
        assert not has(drawing[:, :, 302:], TEXT)
        assert has(drawing, DIM_TEXT) == (label != "" and row == rows[0])


def test_empty_canvas_is_its_background():
    drawing = Canvas(30, 20).to_tensor()
    assert drawing.shape == (1, 20, 30, 3)
    assert len(drawing.flatten(0, 2).unique(dim=0)) == 1
    assert has(drawing, BACKGROUND)


def test_box_has_its_size():
    canvas = Canvas(30, 20)
    canvas.box(10, 5, 8, 4, "#ff0000")
    assert (canvas.to_tensor()[0, :, :, 0] == 1).sum() == 8 * 4


@pytest.mark.parametrize("seconds", [0.5, 4, 59, 600, 3600])
def test_marks_of_the_axis_stay_apart(seconds):
    step = tick_step(seconds, 700)
    assert step * 700 / seconds >= LEAST_TICK_GAP
    assert seconds / step >= 3


def test_bytes_and_floats_are_the_same_picture():
    assert to_picture(RED).tobytes() == to_picture(RED.float() / 255).tobytes() == bytes([255, 0, 0]) * 6000
