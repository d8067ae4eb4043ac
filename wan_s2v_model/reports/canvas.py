"""What the pack's pictures are drawn with: one look, smooth edges, the marks of a time axis."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..time_text import duration

WIDTH = 1024  # of a finished drawing; all lengths below are its pixels
MARGIN = 24
LINE_HEIGHT = 26
FONT_SIZE = 17
SMALL_FONT_SIZE = 13
OVERSAMPLING = 2
LEAST_TICK_GAP = 66
LABEL_COLUMN = 130
LONGEST_LABEL = 16  # characters
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)

BACKGROUND = "#17181c"
PANEL = ("#22242b", "#282b34")  # even and odd clips
BORDER = "#4d5262"
WAVE = "#6ea8fe"
TEXT = "#eceef4"
DIM_TEXT = "#9aa0b0"


class Canvas:
    """A drawing surface in finished pixels, drawn larger and reduced for smooth edges."""

    def __init__(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)

    def box(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        pixel = 1 / OVERSAMPLING  # the corners Pillow takes are both inside
        self._draw.rectangle(_scaled(left, top, left + max(width - pixel, 0), top + max(height - pixel, 0)), fill=colour)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.5) -> None:
        """Join the points (x, y)."""
        scaled = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * OVERSAMPLING), joint="curve")

    def text(self, x: float, y: float, text: str, *, colour: str, size: int = FONT_SIZE, anchor: str = "lm") -> None:
        """Write one line; `anchor` is Pillow's, "lm" has (x, y) at the left, half way up."""
        font = ImageFont.load_default(size * OVERSAMPLING)
        self._draw.text((x * OVERSAMPLING, y * OVERSAMPLING), text, fill=colour, font=font, anchor=anchor)

    def labelled_text(self, left: float, top: float, text: str) -> None:
        """Write a line of LINE_HEIGHT; of "label: value" the label is dimmed and the values are under each other; ": value" goes on."""
        label, colon, value = text.partition(": ")
        middle = top + LINE_HEIGHT / 2
        if not colon or len(label) > LONGEST_LABEL:
            self.text(left, middle, text, colour=TEXT)
            return
        self.text(left, middle, label, colour=DIM_TEXT)
        self.text(left + LABEL_COLUMN, middle, value, colour=TEXT)

    def paste(self, picture: Image.Image, box: tuple[int, int, int, int]) -> None:
        """Fit a picture into (left, top, width, height), centred."""
        left, top, width, height = _scaled(*box)
        factor = min(width / picture.width, height / picture.height)
        size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
        place = int(left + (width - size[0]) // 2), int(top + (height - size[1]) // 2)
        self._image.paste(picture.resize(size, Image.Resampling.LANCZOS), place)

    def to_tensor(self) -> Tensor:
        """The drawing as [1, H, W, 3] float32 in 0..1."""
        reduced = self._image.resize(self._size, Image.Resampling.BOX)
        return torch.from_numpy(np.array(reduced)).float().div(255)[None]


def fit_lines(lines: Sequence[str], width: float) -> list[str]:
    """The lines for `Canvas.labelled_text`, those that are wider than `width` pixels broken between words."""
    return [piece for line in lines for piece in _broken(line, width)]


def _broken(line: str, width: float) -> list[str]:
    label, colon, value = line.partition(": ")
    is_labelled = bool(colon) and len(label) <= LONGEST_LABEL
    first, again, room = (f"{label}: ", ": ", width - LABEL_COLUMN) if is_labelled else ("", "", width)
    font = ImageFont.load_default(FONT_SIZE)
    rows = [""]
    for word in (value if is_labelled else line).split(" "):
        longer = f"{rows[-1]} {word}" if rows[-1] else word
        if rows[-1].strip() and font.getlength(longer) > room:
            rows.append(word)
        else:
            rows[-1] = longer
    if not is_labelled:
        rows[1:] = [row.replace(": ", ":\N{NO-BREAK SPACE}") for row in rows[1:]]  # no label begins within a sentence
    return [(again if number else first) + row for number, row in enumerate(rows)]


def to_picture(image: Tensor) -> Image.Image:
    """A picture [H, W, 3], uint8 or float in 0..1, for `Canvas.paste`."""
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = (image.float().clamp(0, 1) * 255).to(torch.uint8)
    return Image.fromarray(image.numpy())


def tick_step(seconds: float, width: float) -> float:
    """Seconds between the marks of a time axis of `seconds` on `width` pixels, so that their labels stay apart."""
    return next((tick for tick in TICKS_S if tick * width / max(seconds, 1e-3) >= LEAST_TICK_GAP), TICKS_S[-1])


def time_label(time_s: float, step_s: float) -> str:
    """The label of a mark: tenths of seconds, or minutes and seconds where the marks are a second or more apart."""
    if step_s < 1:
        return f"{time_s:.1f} s"
    return duration(time_s)


def _scaled(*lengths: float) -> tuple[float, ...]:
    return tuple(length * OVERSAMPLING for length in lengths)
