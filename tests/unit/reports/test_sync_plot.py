"""The drawing of the sync report, from figures that are known."""

import numpy as np
import pytest
import torch
from wan_s2v_pack.tests.sync_measurements import MOUTH, measurement, offset
from wan_s2v_pack.wan_s2v_model.reports.canvas import BACKGROUND, MARGIN, TEXT, WAVE, WIDTH
from wan_s2v_pack.wan_s2v_model.reports.sync_plot import HEADER_HEIGHT, PICTURE_BOX, PLOT_HEIGHT, PLOT_LEFT, PLOT_WIDTH, draw_sync
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import GRID


def draw(given):
    drawing = draw_sync(given)
    assert drawing.dtype == torch.float32
    assert drawing.shape[0] == 1
    assert drawing.shape[2:] == (WIDTH, 3)
    assert 0 <= drawing.min() <= drawing.max() <= 1
    return (drawing[0] * 255).round().int().numpy()


def where(drawing, colour, tolerance=40):
    rgb = [int(colour[index : index + 2], 16) for index in (1, 3, 5)]
    return (np.abs(drawing - rgb) <= tolerance).all(axis=-1)


def curve_of(drawing):
    top = MARGIN + HEADER_HEIGHT
    return where(drawing[top : top + PLOT_HEIGHT, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH], WAVE)


@pytest.mark.parametrize("lead_ms", [-600.0, 0.0, 187.5, 900.0])
def test_curve_is_highest_at_the_lead_and_marked_there(lead_ms):
    drawing = draw(measurement(offset=offset(lead_ms)))
    rows, columns = np.nonzero(curve_of(drawing))
    expected = (lead_ms + 1000) / 2000 * PLOT_WIDTH
    assert np.mean(columns[rows <= rows.min() + 1]) == pytest.approx(expected, abs=6)
    marked = where(drawing[MARGIN + HEADER_HEIGHT + 12, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH], TEXT)
    assert np.flatnonzero(marked).mean() == pytest.approx(expected, abs=6)


def test_uncertain_offset_has_a_curve_but_no_mark_and_no_region():
    drawing = draw(measurement(offset=offset(300.0, height=2.0)))
    assert curve_of(drawing).any()
    assert not where(drawing[MARGIN + HEADER_HEIGHT + 12, PLOT_LEFT : PLOT_LEFT + PLOT_WIDTH], TEXT).any()
    thumbnail = drawing[MARGIN : MARGIN + PICTURE_BOX[1], MARGIN : MARGIN + PICTURE_BOX[0]]
    assert not (thumbnail[..., 2] > thumbnail[..., 0] + 20).any()


def test_mouth_region_is_blue_on_the_picture():
    drawing = draw(measurement())
    thumbnail = drawing[MARGIN : MARGIN + PICTURE_BOX[1], MARGIN : MARGIN + PICTURE_BOX[0]]
    is_picture = ~where(thumbnail, BACKGROUND, 20)
    rows, columns = np.flatnonzero(is_picture.any(axis=1)), np.flatnonzero(is_picture.any(axis=0))
    blue = np.argwhere(thumbnail[..., 2] > thumbnail[..., 0] + 40).mean(axis=0)
    row, column = divmod(MOUTH, GRID)
    assert blue[0] == pytest.approx(rows[0] + (row + 0.5) / GRID * len(rows), abs=3)
    assert blue[1] == pytest.approx(columns[0] + (column + 0.5) / GRID * len(columns), abs=3)


@pytest.mark.parametrize("given", [measurement(offset=None), measurement(sound=None, offset=None)])
def test_without_an_offset_there_is_no_curve(given):
    assert not curve_of(draw(given)).any()
