"""Draw the sync report: the correlation of picture and sound over their offset, the mouth region, and the words."""

import textwrap

import numpy as np
import torch
from torch import Tensor

from .canvas import BORDER, DIM_TEXT, LINE_HEIGHT, MARGIN, PANEL, SMALL_FONT_SIZE, TEXT, WAVE, WIDTH, Canvas, to_picture
from .sync import NOTICED_EARLY_MS, NOTICED_LATE_MS, Measurement, fact_lines, findings
from .sync_offset import LAGS_MS, MAX_LAG_MS, Offset
from .sync_tracks import GRID

PICTURE_BOX = (288, 288)  # px
PLOT_LEFT = MARGIN + PICTURE_BOX[0] + MARGIN
PLOT_WIDTH = WIDTH - MARGIN - PLOT_LEFT
PLOT_HEIGHT = 180
HEADER_HEIGHT = 22
AXIS_HEIGHT = 26
TICK_MS = 250
TINT = torch.tensor([0x6E, 0xA8, 0xFE]) / 255  # WAVE, over the mouth region
TINT_SHARE = 0.6
LEAST_FULL_SCALE = 0.2  # correlation; smaller curves are not blown up to the full height
LINE_CHARACTERS = 74
CAPTION = "blue: where the picture changes with the sound"


def draw_sync(measurement: Measurement) -> Tensor:
    """Draw the correlation at every lag, the mouth region, the figures and what they mean.

    Returns:
        [1, H, 1024, 3] float32 in 0..1.
    """
    facts = fact_lines(measurement)
    sentences = [line for text in findings(measurement) for line in textwrap.wrap(text, LINE_CHARACTERS)]
    text_top = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT + MARGIN // 2
    sentence_top = text_top + LINE_HEIGHT * len(facts) + MARGIN
    canvas = Canvas(WIDTH, sentence_top + LINE_HEIGHT * len(sentences) + MARGIN)
    canvas.paste(to_picture(_tinted(measurement)), (MARGIN, MARGIN, *PICTURE_BOX))
    _draw_axis(canvas)
    if measurement.offset is not None:
        _draw_curve(canvas, measurement.offset)
        if measurement.offset.is_certain:
            canvas.text(MARGIN, MARGIN + PICTURE_BOX[1] + LINE_HEIGHT / 2, CAPTION, colour=DIM_TEXT, size=SMALL_FONT_SIZE)
    for row, text in enumerate(facts):
        canvas.labelled_text(PLOT_LEFT, text_top + LINE_HEIGHT * row, text)
    for row, text in enumerate(sentences):
        canvas.text(PLOT_LEFT, sentence_top + LINE_HEIGHT * (row + 0.5), text, colour=TEXT)
    return canvas.to_tensor()


def _tinted(measurement: Measurement) -> Tensor:
    """The thumbnail with the mouth region in blue, [H, W, 3] in 0..1."""
    picture = measurement.thumbnail.float() / 255
    if measurement.offset is None or not measurement.offset.is_certain:
        return picture
    cells = torch.from_numpy(measurement.offset.region).float().reshape(1, 1, GRID, GRID)
    share = TINT_SHARE * torch.nn.functional.interpolate(cells, size=picture.shape[:2])[0, 0, ..., None]
    return picture * (1 - share) + TINT * share


def _x(lag_ms: float) -> float:
    return PLOT_LEFT + (lag_ms + MAX_LAG_MS) / (2 * MAX_LAG_MS) * PLOT_WIDTH


def _draw_axis(canvas: Canvas) -> None:
    top, bottom = MARGIN + HEADER_HEIGHT, MARGIN + HEADER_HEIGHT + PLOT_HEIGHT
    canvas.box(PLOT_LEFT, top, PLOT_WIDTH, PLOT_HEIGHT, PANEL[0])
    canvas.box(_x(NOTICED_LATE_MS), top, _x(NOTICED_EARLY_MS) - _x(NOTICED_LATE_MS), PLOT_HEIGHT, PANEL[1])
    canvas.box(_x(0), top, 1, PLOT_HEIGHT, BORDER)
    labels = (
        (PLOT_LEFT, "picture late", "lm"),
        (PLOT_LEFT + PLOT_WIDTH, "picture early", "rm"),
        (_x((NOTICED_LATE_MS + NOTICED_EARLY_MS) / 2), "not noticed", "mm"),
    )
    for x, label, anchor in labels:
        canvas.text(x, top - HEADER_HEIGHT / 2, label, colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor=anchor)
    for lag in range(-MAX_LAG_MS + TICK_MS, MAX_LAG_MS, TICK_MS):
        canvas.box(_x(lag), bottom, 1, 4, BORDER)
        canvas.text(
            _x(lag), bottom + AXIS_HEIGHT / 2 + 2, f"{lag:+d} ms" if lag else "0", colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm"
        )


def _draw_curve(canvas: Canvas, offset: Offset) -> None:
    middle, half = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT / 2, PLOT_HEIGHT / 2 - 8
    scale = half / max(LEAST_FULL_SCALE, float(np.abs(offset.curve).max()))
    canvas.box(PLOT_LEFT, middle, PLOT_WIDTH, 0.5, BORDER)
    canvas.line([(_x(lag), middle - value * scale) for lag, value in zip(LAGS_MS.tolist(), offset.curve.tolist(), strict=True)], WAVE)
    if offset.is_certain:
        left = round(_x(offset.lead.value_ms))
        canvas.box(left, middle - half, 1, 2 * half, TEXT)
        side, anchor = (6, "lm") if offset.lead.value_ms < MAX_LAG_MS / 2 else (-6, "rm")
        canvas.text(left + side, middle + half - 8, f"{offset.lead.value_ms:+.0f} ms", colour=TEXT, size=SMALL_FONT_SIZE, anchor=anchor)
