"""Draw the figures of a drift report over the clips of a video."""

from collections.abc import Sequence
from math import ceil

from torch import Tensor

from .canvas import BORDER, DIM_TEXT, MARGIN, PANEL, SMALL_FONT_SIZE, TEXT, WIDTH, Canvas
from .drift import ClipFigures

PANEL_HEIGHT = 120  # px of the finished drawing, as all lengths here
TITLE_HEIGHT = 30
AXIS_HEIGHT = 26
LABEL_WIDTH = 64
LEFT = MARGIN + LABEL_WIDTH
PLOT_WIDTH = WIDTH - MARGIN - LEFT
INSET = 8  # between the curves and the edge of their panel
LEAST_LABEL_GAP = 40
DOT = 4
RED, GREEN, BLUE = COLOURS = ("#ff6b6b", "#51cf66", "#6ea8fe")

Curve = tuple[str, str, Sequence[float | None]]  # name, colour, one value per clip
Panel = tuple[str, Sequence[Curve]]


def draw_drift(figures: Sequence[ClipFigures]) -> Tensor:
    """[1, H, 1024, 3] float32 in 0..1: means, spreads, sharpness, and borders against steps, each over the number of the clip."""
    panels = _panels(figures)
    canvas = Canvas(WIDTH, MARGIN + len(panels) * (TITLE_HEIGHT + PANEL_HEIGHT) + AXIS_HEIGHT + MARGIN)
    for row, (title, curves) in enumerate(panels):
        top = MARGIN + row * (TITLE_HEIGHT + PANEL_HEIGHT) + TITLE_HEIGHT
        _draw_title(canvas, title, curves, top - TITLE_HEIGHT / 2)
        canvas.box(LEFT, top, PLOT_WIDTH, PANEL_HEIGHT, PANEL[0])
        _draw_curves(canvas, curves, top)
    _draw_axis(canvas, len(figures), MARGIN + len(panels) * (TITLE_HEIGHT + PANEL_HEIGHT))
    return canvas.to_tensor()


def _panels(figures: Sequence[ClipFigures]) -> list[Panel]:
    names = list(zip(("red", "green", "blue"), COLOURS, range(3), strict=True))
    return [
        ("mean level", [(name, colour, [clip.mean[index] for clip in figures]) for name, colour, index in names]),
        ("spread (contrast)", [(name, colour, [clip.std[index] for clip in figures]) for name, colour, index in names]),
        ("sharpness", [("", TEXT, [clip.sharpness for clip in figures])]),
        (
            "change from frame to frame",
            [("at the border", RED, [clip.jump for clip in figures]), ("inside", BLUE, [clip.step for clip in figures])],
        ),
    ]


def _draw_title(canvas: Canvas, title: str, curves: Sequence[Curve], middle: float) -> None:
    canvas.text(LEFT, middle, title, colour=TEXT)
    for place, (name, colour, _) in enumerate(reversed(curves)):
        canvas.text(LEFT + PLOT_WIDTH - 110 * place, middle, name, colour=colour, size=SMALL_FONT_SIZE, anchor="rm")


def _draw_curves(canvas: Canvas, curves: Sequence[Curve], top: float) -> None:
    """All in one scale from the least to the greatest value; one that hardly changes lies in the middle."""
    known = [value for _, _, values in curves for value in values if value is not None] or [0.0]
    middle, half = (max(known) + min(known)) / 2, max((max(known) - min(known)) / 2, 0.5)
    scale = (PANEL_HEIGHT / 2 - INSET) / half
    for value in (middle + half, middle - half):
        y = top + PANEL_HEIGHT / 2 - (value - middle) * scale
        canvas.text(LEFT - 8, y, f"{value:.1f}", colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="rm")
    for _, colour, values in curves:
        points = [
            (_place(clip, len(values)), top + PANEL_HEIGHT / 2 - (value - middle) * scale)
            for clip, value in enumerate(values)
            if value is not None
        ]
        if len(points) > 1:
            canvas.line(points, colour)
        if len(values) * DOT < PLOT_WIDTH / 2:
            for x, y in points:
                canvas.box(x - DOT / 2, y - DOT / 2, DOT, DOT, colour)


def _draw_axis(canvas: Canvas, num_clips: int, top: float) -> None:
    every = max(1, ceil(num_clips * LEAST_LABEL_GAP / PLOT_WIDTH))
    for clip in range(0, num_clips, every):
        canvas.box(_place(clip, num_clips), top, 1, 4, BORDER)
        text = f"clip {clip + 1}" if clip == 0 else str(clip + 1)
        canvas.text(_place(clip, num_clips), top + AXIS_HEIGHT / 2 + 2, text, colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm")


def _place(clip: int, num_clips: int) -> float:
    """Where a clip lies from left to right: in the middle of its share of the width."""
    return LEFT + (clip + 0.5) / num_clips * PLOT_WIDTH
