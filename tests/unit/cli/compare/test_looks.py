"""Each verdict on a clip, both ways, on made-up videos."""

from __future__ import annotations

import numpy as np
import pytest
from wan_s2v_pack.cli.compare.clip import reference_cells
from wan_s2v_pack.cli.compare.looks import LEAST_FOCUS, MOUTH_COLUMNS, MOUTH_ROWS, Clip, judge_looks, likeness, mouth_focus
from wan_s2v_pack.cli.predict.options import PICTURE
from wan_s2v_pack.tests.sync_measurements import offset
from wan_s2v_pack.wan_s2v_model.reports.sync_offset import OffsetMeter
from wan_s2v_pack.wan_s2v_model.reports.sync_tracks import GRID

FPS, FRAMES, HZ = 16, 77, 200
CELLS = GRID * GRID
MOUTH, HAND = 7 * GRID + 7, 13 * GRID + 3


@pytest.fixture(scope="module")
def portrait():
    return reference_cells(PICTURE)


@pytest.fixture(scope="module")
def loudness():
    """Syllables of irregular length and loudness, at HZ."""
    random = np.random.default_rng(3)
    syllables = [(int(random.integers(8, 40)), float(level)) for level in random.uniform(0, 0.3, 80)]
    return np.concatenate([np.full(length, level) for length, level in syllables])[: FRAMES * HZ // FPS + HZ]


def talk(portrait, loudness, cell, seed=0):
    """The portrait with some noise, one cell of which gets darker as the sound gets louder."""
    frames = portrait + np.random.default_rng(seed).normal(0, 1, (FRAMES, CELLS))
    for index in range(FRAMES):
        frames[index, cell] -= 60 * loudness[index * HZ // FPS : (index + 1) * HZ // FPS].mean() ** 0.5
    return frames


def clip(frames, portrait, loudness):
    meter = OffsetMeter(loudness, HZ, 1 / FPS)
    for index, cells in enumerate(frames):
        meter.add(index / FPS, cells)
    return Clip(frames, portrait, meter.result())


def verdicts(clip):
    return {finding.topic: finding.status for finding in judge_looks(clip)}


def test_a_portrait_that_talks(portrait, loudness):
    assert verdicts(clip(talk(portrait, loudness, MOUTH), portrait, loudness)) == {"Values": "ok", "Picture": "ok", "Mouth": "ok"}


def test_a_portrait_whose_hand_moves_with_the_sound(portrait, loudness):
    found = list(judge_looks(clip(talk(portrait, loudness, HAND), portrait, loudness)))
    assert [finding.status for finding in found] == ["ok", "ok", "problem"]
    assert "it is NOT the mouth" in found[2].text


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_called_noise(portrait, loudness, seed):
    frames = np.random.default_rng(seed).normal(128, 40, (FRAMES, CELLS))
    found = list(judge_looks(clip(frames, portrait, loudness)))
    assert [finding.status for finding in found] == ["ok", "problem", "problem"]
    assert "it does NOT resemble the portrait" in found[1].text
    assert "noise, as with random or damaged weights" in found[1].text
    assert "nothing in the picture follows the sound" in found[2].text
    assert found[2].advice


@pytest.mark.parametrize("seed", range(8))
def test_a_still_portrait_does_not_talk(portrait, loudness, seed):
    frames = portrait + np.random.default_rng(seed).normal(0, 1, (FRAMES, CELLS))
    assert verdicts(clip(frames, portrait, loudness)) == {"Values": "ok", "Picture": "ok", "Mouth": "problem"}


@pytest.mark.parametrize("frames", [np.zeros((5, CELLS)), np.full((5, CELLS), 127.0), np.zeros((0, CELLS)), np.full((5, CELLS), np.nan)])
def test_black_and_grey_frames_are_no_video(portrait, frames):
    values, picture, mouth = judge_looks(Clip(frames, portrait, None))
    assert (values.status, picture.status, mouth.status) == ("problem",) * 3
    assert "black, grey or missing" in values.text
    assert "not measured" in mouth.text


def test_likeness_is_that_of_the_median_frame(portrait):
    mixed = np.stack([portrait, portrait + 20, 255 - portrait])
    assert likeness(mixed, portrait) == pytest.approx(1)
    assert likeness(mixed[2:], portrait) == pytest.approx(-1)
    assert likeness(np.zeros((0, CELLS)), portrait) == likeness(np.ones((3, CELLS)), portrait) == 0


def test_focus_is_the_mouth_over_the_rest():
    assert mouth_focus(np.ones(CELLS)) == pytest.approx(1)
    region = np.ones((GRID, GRID))
    region[MOUTH_ROWS, MOUTH_COLUMNS] = 3
    assert mouth_focus(region.ravel()) == pytest.approx(3)
    assert mouth_focus(offset().region) < LEAST_FOCUS  # its cell lies below
    only = np.zeros(CELLS)
    only[MOUTH] = 1
    assert mouth_focus(only) == 99
