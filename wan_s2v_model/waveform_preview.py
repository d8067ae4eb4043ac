"""Draw what is about to be made: the picture, the sound with its clip borders, and the numbers."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

WIDTH = 1024  # of the finished drawing; all lengths below are its pixels
MARGIN = 24
PICTURE_BOX = (288, 320)  # width, least height
PLOT_LEFT = MARGIN + PICTURE_BOX[0] + MARGIN
PLOT_WIDTH = WIDTH - MARGIN - PLOT_LEFT
PLOT_HEIGHT = 132
HEADER_HEIGHT = 22  # clip numbers
AXIS_HEIGHT = 26
LINE_HEIGHT = 26
FONT_SIZE = 17
SMALL_FONT_SIZE = 13
OVERSAMPLING = 2
LEAST_PEAK = 0.1  # quieter sound is not blown up to the full height
LEAST_LABEL_GAP = 44
LEAST_NUMBER_GAP = 14
LEAST_BORDER_GAP = 6
LABEL_COLUMN = 130
LONGEST_LABEL = 16  # characters
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)

BACKGROUND = "#17181c"
PANEL = ("#22242b", "#282b34")  # even and odd clips
BORDER = "#4d5262"
WAVE = "#6ea8fe"
TEXT = "#eceef4"
DIM_TEXT = "#9aa0b0"


def draw_plan(
    waveform: Tensor, rate: int, *, image: Tensor, clip_starts_s: Sequence[float], seconds: float, lines: Sequence[str]
) -> Tensor:
    """Draw the plan of a video.

    Args:
        waveform: [C, T] in -1..1 at `rate` Hz, playing from time 0.
        image: [H, W, 3], uint8 or float in 0..1.
        clip_starts_s: where each clip begins, ascending.
        seconds: length of the video.
        lines: texts under the waveform; of "label: value" the label is dimmed.
    Returns:
        [1, H, 1024, 3] float32 in 0..1.
    """
    text_top = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT + MARGIN // 2
    height = max(MARGIN + PICTURE_BOX[1], text_top + LINE_HEIGHT * len(lines)) + MARGIN
    canvas = _Canvas(WIDTH, height)
    canvas.paste(_to_picture(image), (MARGIN, MARGIN, PICTURE_BOX[0], height - 2 * MARGIN))
    seconds = max(seconds, 1e-3)
    _draw_clips(canvas, [start / seconds for start in clip_starts_s])
    _draw_wave(canvas, waveform, rate, seconds)
    _draw_axis(canvas, seconds)
    for row, line in enumerate(lines):
        _draw_line(canvas, line, text_top + LINE_HEIGHT * row)
    return canvas.to_tensor()


class _Canvas:
    """A drawing surface in finished pixels, drawn larger and reduced for smooth edges."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)

    def box(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        pixel = 1 / OVERSAMPLING  # the corners Pillow takes are both inside
        self._draw.rectangle(_scaled(left, top, left + max(width - pixel, 0), top + max(height - pixel, 0)), fill=colour)

    def text(self, x: float, y: float, text: str, *, colour: str, size: int = FONT_SIZE, anchor: str = "lm") -> None:
        """Write one line; `anchor` is Pillow's, "lm" has (x, y) at the left, half way up."""
        font = ImageFont.load_default(size * OVERSAMPLING)
        self._draw.text((x * OVERSAMPLING, y * OVERSAMPLING), text, fill=colour, font=font, anchor=anchor)

    def paste(self, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
        """Fit a picture into (left, top, width, height), centred."""
        left, top, width, height = _scaled(*box)
        factor = min(width / picture.width, height / picture.height)
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        place = int(left + (width - size[0]) // 2), int(top + (height - size[1]) // 2)
        self._image.paste(picture.resize(size, Image.Resampling.LANCZOS), place)

    def to_tensor(self) -> Tensor:
        reduced = self._image.resize(self._size, Image.Resampling.BOX)
        return torch.from_numpy(np.array(reduced)).float().div(255)[None]


def _scaled(*lengths: float) -> tuple[float, ...]:
    return tuple(length * OVERSAMPLING for length in lengths)


def _to_picture(image: Tensor) -> Image.Image:
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = (image.float().clamp(0, 1) * 255).to(torch.uint8)
    return Image.fromarray(image.numpy())


def _draw_clips(canvas: _Canvas, starts: Sequence[float]) -> None:
    """Shade the clips and number them from 0, as messages and `redo` do; `starts` are fractions of the plot's width."""
    top = MARGIN + HEADER_HEIGHT
    edges = [PLOT_LEFT + round(min(max(start, 0.0), 1.0) * PLOT_WIDTH) for start in starts] + [PLOT_LEFT + PLOT_WIDTH]
    label_every = max(1, ceil(len(starts) * LEAST_LABEL_GAP / PLOT_WIDTH))
    for number, (left, right) in enumerate(pairwise(edges)):
        canvas.box(left, top, right - left, PLOT_HEIGHT, PANEL[number % 2])
        if number and right - left >= LEAST_BORDER_GAP:
            canvas.box(left, top - 4, 1, PLOT_HEIGHT + 4, BORDER)
        room = (right - left) * label_every
        if number % label_every == 0 and room >= LEAST_NUMBER_GAP:
            label = f"clip {number}" if number == 0 or (label_every == 1 and room >= LEAST_LABEL_GAP) else str(number)
            canvas.text((left + right) / 2, top - HEADER_HEIGHT / 2, label, colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm")


def _draw_wave(canvas: _Canvas, waveform: Tensor, rate: int, seconds: float) -> None:
    low, high = _envelope(waveform, rate, seconds)
    scale = (PLOT_HEIGHT / 2 - 6) / max(LEAST_PEAK, float(high.max()), -float(low.min()))
    middle = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT / 2
    for column, (bottom, top) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        height = max((top - bottom) * scale, 1.0)
        canvas.box(PLOT_LEFT + column / OVERSAMPLING, middle - top * scale - 0.5, 1 / OVERSAMPLING, height, WAVE)


def _envelope(waveform: Tensor, rate: int, seconds: float) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest sample of every column, 0 where there is no sound."""
    num_columns = PLOT_WIDTH * OVERSAMPLING
    low, high = torch.zeros(num_columns), torch.zeros(num_columns)
    num_samples = waveform.shape[-1]
    for column in range(num_columns):
        start = int(column / num_columns * seconds * rate)
        end = max(start + 1, int((column + 1) / num_columns * seconds * rate))
        if start >= num_samples:
            break
        low[column], high[column] = waveform[:, start:end].detach().float().mean(dim=0).aminmax()
    return low.nan_to_num(0.0).clamp(-1, 1), high.nan_to_num(0.0).clamp(-1, 1)


def _draw_axis(canvas: _Canvas, seconds: float) -> None:
    top = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT
    step = next((tick for tick in TICKS_S if tick * PLOT_WIDTH / seconds >= 1.5 * LEAST_LABEL_GAP), TICKS_S[-1])
    for index in range(int(seconds / step + 1e-6) + 1):
        x = PLOT_LEFT + index * step / seconds * PLOT_WIDTH
        canvas.box(x, top, 1, 4, BORDER)
        canvas.text(x, top + AXIS_HEIGHT / 2 + 2, _clock(index * step, step), colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm")


def _clock(time_s: float, step_s: float) -> str:
    if step_s < 1:
        return f"{time_s:.1f} s"
    minutes, rest = divmod(round(time_s), 60)
    return f"{minutes}:{rest:02d}"


def _draw_line(canvas: _Canvas, line: str, top: float) -> None:
    label, colon, value = line.partition(": ")
    middle = top + LINE_HEIGHT / 2
    if not colon or len(label) > LONGEST_LABEL:
        canvas.text(PLOT_LEFT, middle, line, colour=TEXT)
        return
    canvas.text(PLOT_LEFT, middle, label, colour=DIM_TEXT)
    canvas.text(PLOT_LEFT + LABEL_COLUMN, middle, value, colour=TEXT)
