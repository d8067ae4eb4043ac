"""Integrated loudness: the numbers of ITU-R BS.1770 and of the test signals in EBU Tech 3341."""

import logging
import math

import pytest
import torch
import torchaudio
from wan_s2v_pack.wan_s2v_model.audio import loudness
from wan_s2v_pack.wan_s2v_model.audio.loudness import bring_to_loudness, integrated_loudness

RATES_HZ = (8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000)
LARGEST_ERROR = 0.1  # LU, as EBU Tech 3341 allows
NARROW_ERROR = 0.2  # LU of sounds of telephone rates, where the shelf of torchaudio bends near half the rate


def sine(level_db, seconds, rate_hz=48_000, frequency_hz=1000.0, channels=2):
    """[C, T], the peak of the sine at `level_db` of full scale."""
    time = torch.arange(round(seconds * rate_hz), dtype=torch.float64) / rate_hz
    return (10 ** (level_db / 20) * torch.sin(2 * math.pi * frequency_hz * time)).float().expand(channels, -1)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_reads_as_the_library_where_that_can_be_used(rate_hz, noise):
    """torchaudio.functional.loudness takes 70 bytes a value, clips at full scale and knows neither silence nor short sounds."""
    sound = noise(2, rate_hz * 5) * torch.linspace(0.001, 0.1, rate_hz * 5)
    expected = torchaudio.functional.loudness(sound.double(), rate_hz).item()
    assert integrated_loudness(sound, rate_hz) == pytest.approx(expected, abs=0.01)


def test_loud_treble_is_not_clipped_by_the_filters():
    quiet = sine(-20, 5, frequency_hz=8000.0)
    assert integrated_loudness(quiet * 20, 48_000) == pytest.approx(integrated_loudness(quiet, 48_000) + 20 * math.log10(20), abs=1e-3)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_full_scale_sine_of_one_channel(rate_hz):
    error = LARGEST_ERROR if rate_hz >= 16_000 else NARROW_ERROR
    assert integrated_loudness(sine(0, 5, rate_hz, 997.0, 1), rate_hz) == pytest.approx(-3.01, abs=error)


@pytest.mark.parametrize("level_db", [-23, -33, -60])
def test_stereo_sine_reads_its_level(level_db):
    assert integrated_loudness(sine(level_db, 20), 48_000) == pytest.approx(level_db, abs=LARGEST_ERROR)


@pytest.mark.parametrize(
    "parts",
    [
        [(-36, 10), (-23, 60), (-36, 10)],  # the relative gate
        [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],  # and the absolute one
        [(-26, 20), (-20, 20.1), (-26, 20)],
    ],
)
def test_programme_with_quiet_parts_reads_minus_23(parts):
    programme = torch.cat([sine(level_db, seconds) for level_db, seconds in parts], dim=1)
    assert integrated_loudness(programme, 48_000) == pytest.approx(-23.0, abs=LARGEST_ERROR)


def test_pieces_read_as_the_whole(noise, monkeypatch):
    sound = noise(2, 8000 * 30) * torch.linspace(0.01, 0.3, 8000 * 30)
    whole = integrated_loudness(sound, 8000)
    monkeypatch.setattr(loudness, "PIECE_HOPS", 37)
    assert integrated_loudness(sound, 8000) == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("sound", [torch.zeros(1, 16_000), sine(-80, 5, 16_000), sine(-20, 0.39, 16_000), torch.zeros(2, 0)])
def test_silence_and_a_blink_have_no_loudness(sound, caplog):
    assert integrated_loudness(sound, 16_000) == -math.inf
    assert bring_to_loudness("audio", sound, 16_000, -16.0) is sound
    assert "audio is silent or shorter than 0.4 s" in caplog.text


@pytest.mark.parametrize("target", [-30.0, -23.0, -16.0])
def test_sound_reaches_its_target(target, caplog):
    sound = sine(-23.5, 5)
    assert integrated_loudness(bring_to_loudness("audio", sound, 48_000, target), 48_000) == pytest.approx(target, abs=1e-3)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_peaks_stay_one_decibel_below_full_scale(caplog):
    sound = sine(-40, 5).clone()
    sound[:, 1000] = 0.5
    louder = bring_to_loudness("driving_audio", sound, 48_000, -16.0)
    assert louder.abs().max().item() == pytest.approx(10 ** (-1 / 20))
    assert "driving_audio: its peaks allow no more than" in caplog.text


def test_a_sound_that_is_too_loud_already_is_only_made_quieter():
    clipped = sine(0, 5) * 2
    quieter = bring_to_loudness("audio", clipped, 48_000, -1.0)
    assert integrated_loudness(quieter, 48_000) == pytest.approx(-1.0, abs=1e-3)
    assert torch.equal(bring_to_loudness("audio", clipped, 48_000, 20.0), clipped)
