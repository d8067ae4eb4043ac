"""Measurements of a video's timestamps and lips, for the tests of the sync report and its plot."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import torch
from wan_s2v_pack.wan_s2v_model.reports.sync import Measurement
from wan_s2v_pack.wan_s2v_model.reports.sync_offset import LAGS_MS, Estimate, Offset
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import GRID, Picture, Sound, StreamTiming

FPS = 16
RATE = 48_000
MOUTH = 10 * GRID + 7  # a cell


def even(seconds, first_s=0.0, count=160):
    return StreamTiming(first_s, first_s + seconds, count, seconds, seconds / count, seconds / count)


def offset(lead_ms=0.0, height=9.0, spread_ms=10.0, drift=None):
    region = np.zeros(GRID * GRID)
    region[MOUTH] = 1
    curve = 0.5 * np.exp(-(((LAGS_MS - lead_ms) / 80) ** 2))
    return Offset(Estimate(lead_ms, lead_ms - spread_ms, lead_ms + spread_ms), drift, height, curve, region)


def measurement(**changes):
    picture = Picture("h264", 832, 480, Fraction(FPS), 10.0)
    sound = Sound("aac", RATE, 1, even(10.005), np.zeros(2000))
    usual = Measurement(picture, even(10.0), sound, offset(), torch.full((60, 104, 3), 100, dtype=torch.uint8))
    return replace(usual, **changes)


def with_sound(**changes):
    return measurement(sound=Sound("aac", RATE, 2, replace(even(10.0), **changes), np.zeros(2000)))
