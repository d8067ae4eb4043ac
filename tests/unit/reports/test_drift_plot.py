"""The drift plot on clips whose figures are known."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.reports.drift import ClipFigures
from wan_s2v_pack.wan_s2v_model.reports.drift_plot import draw_drift


@pytest.mark.parametrize("num_clips", [1, 2, 30, 720])
def test_plot_is_a_picture(num_clips):
    figures = [ClipFigures(80, (100 + clip, 90, 80), (40, 41, 42), 30.0, None if clip == 0 else 2.0, 1.5) for clip in range(num_clips)]
    plot = draw_drift(figures)
    assert plot.shape == (1, 674, 1024, 3)
    assert (plot.min() >= 0, plot.max() <= 1) == (True, True)
    assert len(plot[0].flatten(0, 1).unique(dim=0)) > 20


def test_plot_shows_where_a_curve_goes():
    """The red mean rises, so its curve is lower on the left than on the right of the first panel."""
    rising = [ClipFigures(80, (100 + 5 * clip, 100, 100), (40, 40, 40), 30.0, None if clip == 0 else 2.0, 1.5) for clip in range(10)]
    panel = draw_drift(rising)[0, 54:174, 88:1000]
    reddish = (panel[..., 0] > 0.8) & (panel[..., 1] < 0.6)
    rows = torch.arange(120.0)[:, None].expand(-1, panel.shape[1])
    left, right = (rows[:, part][reddish[:, part]].mean() for part in (slice(0, 200), slice(-200, None)))
    assert left > right + 60
