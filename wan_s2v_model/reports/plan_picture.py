"""Draw what is about to be made: the picture, the sound with its clip borders, and the numbers."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageColor, ImageDraw, ImageFont
from PIL.Image import Image
from torch import Tensor

from .canvas import (
    BACKGROUND,
    BORDER,
    DIM_TEXT,
    LINE_HEIGHT,
    MARGIN,
    OVERSAMPLING,
    PANEL,
    SMALL_FONT_SIZE,
    TEXT,
    WAVE,
    WIDTH,
    Canvas,
    fit_lines,
    tick_step,
    time_label,
    to_picture,
)

PICTURE_BOX = (288, 320)  # width, least height
PLOT_LEFT = MARGIN + PICTURE_BOX[0] + MARGIN
PLOT_WIDTH = WIDTH - MARGIN - PLOT_LEFT
PLOT_HEIGHT = 132
HEADER_HEIGHT = 22  # clip numbers
AXIS_HEIGHT = 26
LEAST_PEAK = 0.1  # quieter sound is not blown up to the full height
LEAST_LABEL_GAP = 44
LEAST_NUMBER_GAP = 14
LEAST_BORDER_GAP = 6
VOICE_COLOURS = (WAVE, "#f2a65a", "#7bd389", "#d98cf0")
TINT = 0.45  # of a region in the picture
NUMBER_SIZE = 26  # of the number in a region, in finished pixels
LANE_GAP = 4


class Voice(NamedTuple):
    """One of several speakers.

    Attributes:
        region: [h, w], its share of each part of the picture. waveform: [C, T], empty for one who listens. start_s: when it begins.
    """

    number: int
    region: Tensor
    waveform: Tensor
    rate: int
    start_s: float


def draw_plan(
    waveform: Tensor,
    rate: int,
    *,
    image: Tensor,
    clip_starts_s: Sequence[float],
    seconds: float,
    lines: Sequence[str],
    voices: Sequence[Voice] = (),
) -> Tensor:
    """Draw the plan of a video.

    Args:
        waveform: [C, T] in -1..1 at `rate` Hz, playing from time 0.
        image: [H, W, 3], uint8 or float in 0..1.
        clip_starts_s: where each clip begins, ascending.
        seconds: length of the video.
        lines: texts under the waveform; of "label: value" the label is dimmed. Longer ones are broken.
        voices: several speakers, whose regions and sounds are then shown instead of the one sound.
    Returns:
        [1, H, 1024, 3] float32 in 0..1.
    """
    lines = fit_lines(lines, PLOT_WIDTH)
    text_top = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT + MARGIN // 2
    height = max(MARGIN + PICTURE_BOX[1], text_top + LINE_HEIGHT * len(lines)) + MARGIN
    canvas = Canvas(WIDTH, height)
    canvas.paste(_with_regions(to_picture(image), voices), (MARGIN, MARGIN, PICTURE_BOX[0], height - 2 * MARGIN))
    seconds = max(seconds, 1e-3)
    _draw_clips(canvas, [start / seconds for start in clip_starts_s])
    _draw_waves(canvas, voices or [Voice(0, torch.empty(0), waveform, rate, 0.0)], seconds)
    _draw_axis(canvas, seconds)
    for row, line in enumerate(lines):
        canvas.labelled_text(PLOT_LEFT, text_top + LINE_HEIGHT * row, line)
    return canvas.to_tensor()


def _draw_clips(canvas: Canvas, starts: Sequence[float]) -> None:
    """Shade the clips and number them from 1, as messages and `redo_from_clip` do; `starts` are fractions of the plot's width."""
    top = MARGIN + HEADER_HEIGHT
    edges = [PLOT_LEFT + round(min(max(start, 0.0), 1.0) * PLOT_WIDTH) for start in starts] + [PLOT_LEFT + PLOT_WIDTH]
    label_every = max(1, ceil(len(starts) * LEAST_LABEL_GAP / PLOT_WIDTH))
    for number, (left, right) in enumerate(pairwise(edges)):
        canvas.box(left, top, right - left, PLOT_HEIGHT, PANEL[number % 2])
        if number and right - left >= LEAST_BORDER_GAP:
            canvas.box(left, top - 4, 1, PLOT_HEIGHT + 4, BORDER)
        room = (right - left) * label_every
        if number % label_every == 0 and room >= LEAST_NUMBER_GAP:
            label = f"clip {number + 1}" if number == 0 or (label_every == 1 and room >= LEAST_LABEL_GAP) else str(number + 1)
            canvas.text((left + right) / 2, top - HEADER_HEIGHT / 2, label, colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm")


def _with_regions(picture: Image, voices: Sequence[Voice]) -> Image:
    """The picture with each region in the colour of its voice, and its number in the middle."""
    if not voices:
        return picture
    shares = F.interpolate(torch.stack([voice.region for voice in voices])[None].float(), (picture.height, picture.width))[0]
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    for share, voice in zip(shares, voices, strict=True):
        tint = torch.tensor(ImageColor.getrgb(_colour_of(voice))) / 255
        pixels = torch.lerp(pixels, tint.expand_as(pixels), TINT * share[..., None].clamp(0, 1))
    tinted = to_picture(pixels)
    size = NUMBER_SIZE / min(PICTURE_BOX[0] / picture.width, PICTURE_BOX[1] / picture.height)
    draw, font = ImageDraw.Draw(tinted), ImageFont.load_default(size)
    for share, voice in zip(shares, voices, strict=True):
        if share.any():
            row, column = (share > 0).nonzero().float().mean(dim=0).tolist()
            draw.text((column, row), str(voice.number), fill=TEXT, font=font, anchor="mm", stroke_width=size / 10, stroke_fill=BACKGROUND)
    return tinted


def _colour_of(voice: Voice) -> str:
    return VOICE_COLOURS[max(0, voice.number - 1) % len(VOICE_COLOURS)]


def _draw_waves(canvas: Canvas, voices: Sequence[Voice], seconds: float) -> None:
    """Each in a lane of its own."""
    lane = PLOT_HEIGHT / len(voices)
    for index, voice in enumerate(voices):
        middle = MARGIN + HEADER_HEIGHT + (index + 0.5) * lane
        _draw_wave(canvas, voice, seconds, middle, lane / 2 - (6 if len(voices) == 1 else LANE_GAP))
        if len(voices) > 1:
            canvas.text(PLOT_LEFT + 4, middle - lane / 2 + 9, str(voice.number), colour=TEXT, size=SMALL_FONT_SIZE)


def _draw_wave(canvas: Canvas, voice: Voice, seconds: float, middle: float, reach: float) -> None:
    low, high = _envelope(voice, seconds)
    scale = reach / max(LEAST_PEAK, float(high.max()), -float(low.min()))
    for column, (bottom, top) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        height = max((top - bottom) * scale, 1.0)
        canvas.box(PLOT_LEFT + column / OVERSAMPLING, middle - top * scale - 0.5, 1 / OVERSAMPLING, height, _colour_of(voice))


def _envelope(voice: Voice, seconds: float) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest sample of every column, 0 where there is no sound."""
    num_columns = PLOT_WIDTH * OVERSAMPLING
    low, high = torch.zeros(num_columns), torch.zeros(num_columns)
    num_samples = voice.waveform.shape[-1]
    for column in range(num_columns):
        start, end = (int((edge / num_columns * seconds - voice.start_s) * voice.rate) for edge in (column, column + 1))
        end = max(start + 1, end)
        if start >= num_samples:
            break
        if start >= 0:
            low[column], high[column] = voice.waveform[:, start:end].detach().float().mean(dim=0).aminmax()
    return low.nan_to_num(0.0).clamp(-1, 1), high.nan_to_num(0.0).clamp(-1, 1)


def _draw_axis(canvas: Canvas, seconds: float) -> None:
    top = MARGIN + HEADER_HEIGHT + PLOT_HEIGHT
    step = tick_step(seconds, PLOT_WIDTH)
    for index in range(int(seconds / step + 1e-6) + 1):
        x = PLOT_LEFT + index * step / seconds * PLOT_WIDTH
        canvas.box(x, top, 1, 4, BORDER)
        canvas.text(x, top + AXIS_HEIGHT / 2 + 2, time_label(index * step, step), colour=DIM_TEXT, size=SMALL_FONT_SIZE, anchor="mm")
