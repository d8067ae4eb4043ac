"""The plan picture: its size, where picture, sound, borders and texts are, and odd input."""

import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.reports.canvas import BACKGROUND, BORDER, DIM_TEXT, MARGIN, PANEL, TEXT, WAVE, WIDTH, time_label
from wan_s2v_pack.wan_s2v_model.reports.plan_picture import (
    HEADER_HEIGHT,
    PICTURE_BOX,
    PLOT_HEIGHT,
    PLOT_LEFT,
    PLOT_WIDTH,
    VOICE_COLOURS,
    Voice,
    draw_plan,
)

RATE = 16000
RED = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(60, 100, 3)
PLOT_TOP = MARGIN + HEADER_HEIGHT


def tone(seconds, level=0.5):
    return torch.sin(torch.arange(round(seconds * RATE)) * 0.2)[None] * level


def draw(waveform=None, *, image=RED, clip_starts_s=(0.0,), seconds=10.0, lines=("size: 832 x 480",), rate=RATE, voices=()):
    waveform = tone(seconds) if waveform is None else waveform
    drawing = draw_plan(waveform, rate, image=image, clip_starts_s=clip_starts_s, seconds=seconds, lines=lines, voices=voices)
    assert drawing.dtype == torch.float32
    assert drawing.ndim == 4
    assert drawing.shape[0] == 1
    assert drawing.shape[2:] == (WIDTH, 3)
    assert 0 <= drawing.min() <= drawing.max() <= 1
    return (drawing[0] * 255).round().int().numpy()


def where(drawing, colour, tolerance=2):
    rgb = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return (np.abs(drawing - rgb) <= tolerance).all(axis=-1)


def wave_rows(drawing):
    """Height of the waveform in every column of the plot."""
    plot = drawing[PLOT_TOP : PLOT_TOP + PLOT_HEIGHT, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH]
    return where(plot, WAVE, 60).sum(axis=0)


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (480, 832), (20, 300), (600, 120)])
def test_picture_is_fitted_at_the_left(shape):
    height, width = shape
    red = where(draw(image=RED[:1, :1].expand(height, width, 3)), "#ff0000", 40)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert columns[0] >= MARGIN - 1
    assert columns[-1] <= MARGIN + PICTURE_BOX[0]
    drawn_height, drawn_width = len(rows), len(columns)
    assert drawn_width == pytest.approx(PICTURE_BOX[0], abs=2) or drawn_height == pytest.approx(PICTURE_BOX[1], abs=2)
    assert drawn_height == pytest.approx(drawn_width * height / width, abs=0.02 * PICTURE_BOX[1] + 2)


def test_float_and_byte_pictures_look_the_same():
    image = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert np.abs(draw(image=image) - draw(image=(image.double() / 255 + 1e-6).float())).max() <= 1


def test_sound_is_drawn_where_it_plays():
    waveform = torch.cat([tone(2), torch.zeros(1, 3 * RATE), tone(2), torch.zeros(1, 3 * RATE)], dim=1)
    heights = wave_rows(draw(waveform))
    tenth = PLOT_WIDTH // 10
    for second, loud in enumerate([1, 1, 0, 0, 0, 1, 1, 0, 0, 0]):
        middle = heights[second * tenth + 4 : (second + 1) * tenth - 4]
        assert (middle.min() > 100) if loud else (middle.max() <= 2), second


def test_short_sound_ends_in_silence_and_long_sound_is_cut():
    heights = wave_rows(draw(tone(5)))
    assert heights[: PLOT_WIDTH // 2 - 4].min() > 100
    assert heights[PLOT_WIDTH // 2 + 4 :].max() <= 2
    assert wave_rows(draw(tone(20))).min() > 100


def test_channels_are_averaged():
    assert wave_rows(draw(torch.cat([tone(10), -tone(10)]))).max() <= 2
    quiet = tone(10, level=0.05)
    assert (draw(quiet.expand(6, -1)) == draw(quiet)).all()


def test_quiet_sound_looks_quiet():
    assert wave_rows(draw(tone(10, level=0.01))).max() < 30


def test_every_clip_begins_with_a_border():
    starts = (0.0, 77 / 16, 157 / 16)
    drawing = draw(clip_starts_s=starts, seconds=12.0, waveform=torch.zeros(1, RATE))
    row = PLOT_TOP + 10
    borders = np.flatnonzero(where(drawing[row : row + 1], BORDER, 20)[0])
    expected = [PLOT_LEFT + start / 12 * PLOT_WIDTH for start in starts[1:]]
    groups = np.split(borders, np.flatnonzero(np.diff(borders) > 2) + 1)
    assert [group.mean() for group in groups] == pytest.approx(expected, abs=1)
    middles = [int(PLOT_LEFT + PLOT_WIDTH * time / 12) for time in (2, 7, 11)]
    shades = [tuple(drawing[row, middle]) for middle in middles]
    assert shades[0] == shades[2] != shades[1]
    assert where(drawing[row, middles[0]][None], PANEL[0]).all()


@pytest.mark.parametrize("num_clips", [1, 2, 40, 720])
def test_clip_numbers_stay_apart(num_clips):
    starts = [index * 5.0 for index in range(num_clips)]
    drawing = draw(torch.zeros(1, 1), clip_starts_s=starts, seconds=num_clips * 5.0)
    header = drawing[MARGIN - 2 : PLOT_TOP - 5, PLOT_LEFT - 20 :]
    inked = np.flatnonzero(~where(header, BACKGROUND, 25).all(axis=0))
    assert len(inked) > 10
    labels = np.split(inked, np.flatnonzero(np.diff(inked) >= 8) + 1)
    assert len(labels) <= 15
    assert all(label[-1] - label[0] < 60 for label in labels)


def test_lines_make_the_drawing_taller_and_all_appear():
    short, tall = draw(lines=[]), draw(lines=[f"line {index}: value" for index in range(20)])
    assert len(tall) > len(short)
    below = tall[PLOT_TOP + PLOT_HEIGHT + 30 :, PLOT_LEFT:]
    text_rows = (where(below, TEXT, 60) | where(below, DIM_TEXT, 40)).any(axis=1)
    assert (np.diff(text_rows.astype(int)) == 1).sum() == 20
    assert where(below, DIM_TEXT, 40).any()


@pytest.mark.parametrize(
    ("line", "dimmed"), [("size: 832 x 480", True), ("a plain sentence", False), ("a sentence of many words: and more", False)]
)
def test_only_labels_are_dimmed(line, dimmed):
    start = draw(lines=[line])[PLOT_TOP + PLOT_HEIGHT + 30 :, PLOT_LEFT : PLOT_LEFT + 100]
    assert (start.max() < 0xC0) == dimmed


@pytest.mark.parametrize("waveform", [torch.zeros(1, 0), torch.full((2, 1000), float("nan")), torch.full((1, 9), float("inf"))])
def test_unusual_sound_is_drawn(waveform):
    draw(waveform)


@pytest.mark.parametrize(
    ("starts", "seconds"), [((), 1.0), ((0.0,), 0.0), ((0.0, 5.0, 10.0), 4.0), ((0.0,), 1 / 16), ((0.0,), 86400.0), ((0.0, 1.999), 2.0)]
)
def test_unusual_times_are_drawn(starts, seconds):
    drawing = draw(tone(1), clip_starts_s=starts, seconds=seconds)
    assert where(drawing[PLOT_TOP : PLOT_TOP + PLOT_HEIGHT, PLOT_LEFT + PLOT_WIDTH + 1 :], BACKGROUND).all()


def test_time_label():
    assert [time_label(0, 1), time_label(65, 5), time_label(3600, 600), time_label(0.3, 0.1)] == ["0:00", "1:05", "1:00:00", "0.3 s"]


# Several speakers


def halves(count=2):
    regions = torch.eye(count)[:, None].repeat_interleave(4, dim=1)  # [count, 4, count], a column for each
    sounds = (tone(4), 0.0), (tone(4), 5.0), (torch.empty(1, 0), 0.0)
    return [Voice(number + 1, regions[number], sounds[number][0], RATE, sounds[number][1]) for number in range(count)]


def test_each_speaker_has_a_lane_with_its_own_sound():
    drawing = draw(voices=halves(), seconds=10.0)
    lanes = [drawing[PLOT_TOP + PLOT_HEIGHT // 2 * lane :][: PLOT_HEIGHT // 2, PLOT_LEFT + 20 : PLOT_LEFT + PLOT_WIDTH] for lane in (0, 1)]
    heights = [where(lane, colour, 60).sum(axis=0) for lane, colour in zip(lanes, VOICE_COLOURS, strict=False)]
    tenth = PLOT_WIDTH // 10
    assert heights[0][: 3 * tenth].min() > 10 > heights[0][5 * tenth :].max()
    assert heights[1][: 4 * tenth].max() < 10 < heights[1][6 * tenth : 8 * tenth].min()
    assert not where(lanes[0], VOICE_COLOURS[1], 20).any()


@pytest.mark.parametrize("count", [2, 3])
def test_regions_are_tinted_and_numbered(count):
    grey = torch.full((100, 300, 3), 0.5)
    drawing = draw(image=grey, voices=halves(count))
    picture = drawing[MARGIN : MARGIN + PICTURE_BOX[1], MARGIN : MARGIN + PICTURE_BOX[0]]
    rows = np.flatnonzero((picture > 60).any(axis=(1, 2)))
    for number in range(count):
        spot = picture[rows[0] + 4, int((number + 0.5) * PICTURE_BOX[0] / count)]
        colour = np.array([int(VOICE_COLOURS[number][index : index + 2], 16) for index in (1, 3, 5)])
        assert np.abs(spot - (127.5 + 0.45 * (colour - 127.5))).max() < 4
    assert where(picture, TEXT, 30).sum() > 20
