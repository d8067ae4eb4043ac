"""Surround sound becomes stereo at the level it has in a living room; sound at any rate becomes what the model hears."""

import math

import pytest
import torch
import torchaudio
from wan_s2v_pack.wan_s2v_model.audio.loudness import integrated_loudness
from wan_s2v_pack.wan_s2v_model.media.sound import RESAMPLE_PIECE_S, SHARED, audible_mono, fold_down, is_cancelled, to_mono_16khz

FRONT_LEFT, FRONT_RIGHT, CENTRE, LOW = range(4)


def only(channels, channel, noise):
    waveform = torch.zeros(channels, 4000)
    waveform[channel] = 0.1 * noise(4000)
    return waveform


@pytest.mark.parametrize("channels", [1, 2])
def test_mono_and_stereo_stay(noise, channels):
    waveform = 2 * noise(channels, 400)
    assert fold_down(waveform) is waveform


@pytest.mark.parametrize("channels", [5, 6, 8])
def test_voice_of_the_centre_is_in_both_channels(noise, channels):
    waveform = only(channels, CENTRE, noise)
    torch.testing.assert_close(fold_down(waveform), SHARED * waveform[CENTRE].expand(2, -1))


@pytest.mark.parametrize(("channels", "left"), [(5, [0, 3]), (6, [0, 4]), (8, [0, 4, 6])])
def test_sides_stay_apart(noise, channels, left):
    for channel in left:
        for side in (0, 1):
            folded = fold_down(only(channels, channel + side, noise))
            assert folded[side].abs().max() > 0
            assert folded[1 - side].abs().max() == 0


@pytest.mark.parametrize("channels", [6, 8])
def test_low_frequency_channel_is_left_out(noise, channels):
    assert fold_down(only(channels, LOW, noise)).abs().max() == 0


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_empty_sound_stays_empty(channels):
    folded = fold_down(torch.zeros(channels, 0))
    assert folded.shape[0] <= 2
    assert folded.shape[1] == 0


def test_nothing_clips(noise):
    waveform = noise(6, 4000).clamp(-1, 1)
    folded = fold_down(waveform)
    assert folded.abs().max() == pytest.approx(1.0)
    left = waveform[0] + SHARED * (waveform[2] + waveform[4])
    torch.testing.assert_close(folded[0] / folded[0].norm(), left / left.norm())


@pytest.mark.parametrize("channels", [3, 4, 7])
def test_other_numbers_of_channels_are_averaged(noise, channels):
    waveform = noise(channels, 400)
    torch.testing.assert_close(fold_down(waveform), waveform.mean(dim=0, keepdim=True))


def test_centre_alone_is_as_loud_as_before(noise):
    waveform = torch.zeros(6, 48_000)
    waveform[CENTRE] = 0.1 * noise(48_000)
    assert integrated_loudness(fold_down(waveform), 48_000) == pytest.approx(
        integrated_loudness(waveform[CENTRE : CENTRE + 1], 48_000), abs=0.1
    )


# What the model hears


def sine(frequency_hz, rate_hz, seconds=1.0):
    return torch.sin(2 * math.pi * frequency_hz * torch.arange(int(rate_hz * seconds), dtype=torch.float64) / rate_hz).float()


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 11_127, 22_050, 32_000, 44_099, 44_100, 47_187, 48_000])
def test_resampling_keeps_a_tone(rate_hz):
    mono = to_mono_16khz(sine(440, rate_hz)[None], rate_hz)
    assert mono.shape == (16_000,)
    torch.testing.assert_close(mono[500:-500], sine(440, 16_000)[500:-500], atol=0.01, rtol=0)


def test_resampling_removes_what_16khz_cannot_hold():
    for rate_hz in (48_000, 47_187):
        assert to_mono_16khz(sine(11_000, rate_hz)[None], rate_hz)[500:-500].abs().max() < 0.01


def test_long_sound_at_an_odd_rate_has_no_seams():
    rate_hz, seconds = 11_127, 2 * RESAMPLE_PIECE_S + 1
    mono = to_mono_16khz(sine(440, rate_hz, seconds)[None], rate_hz)
    assert mono.shape == (16_000 * seconds,)
    torch.testing.assert_close(mono[500:-500], sine(440, 16_000, seconds)[500:-500], atol=0.01, rtol=0)


def test_16khz_mono_is_left_as_it_is():
    waveform = sine(440, 16_000)
    assert torch.equal(to_mono_16khz(waveform[None], 16_000), waveform)


def test_mono_is_the_mean_of_the_channels():
    left, right = sine(440, 16_000), sine(1000, 16_000)
    torch.testing.assert_close(to_mono_16khz(torch.stack([left, right]), 16_000), (left + right) / 2)


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("more", [0, 1, 12_345], ids=lambda more: f"60 s + {more}")
def test_long_sound_is_resampled_in_pieces_to_the_same_numbers(noise, rate_hz, more):
    waveform = noise(2, RESAMPLE_PIECE_S * rate_hz + more)
    at_once = torchaudio.functional.resample(waveform.mean(dim=0), rate_hz, 16_000)
    torch.testing.assert_close(to_mono_16khz(waveform, rate_hz), at_once, atol=1e-6, rtol=0)  # 0 but for 8 kHz: other blocks of the sum


def test_half_precision_sound_is_resampled_in_float32():
    assert to_mono_16khz(sine(440, 48_000).half()[None], 48_000).dtype == torch.float32


# Channels that cancel each other out


def test_channels_in_opposite_phase_are_heard():
    """Their mean is silence, while the file plays loudly."""
    voice = sine(440, 16_000)
    for other in (-voice, -0.9 * voice, -0.6 * voice):
        waveform = torch.stack([voice, other])
        assert is_cancelled(waveform, 16_000)
        assert torch.equal(audible_mono(waveform, 16_000), voice[None])


def test_a_part_in_opposite_phase_counts():
    voice = sine(440, 16_000, 4)
    waveform = torch.stack([voice, torch.cat([voice[:48_000], -voice[48_000:]])])
    assert torch.equal(audible_mono(waveform, 16_000), voice[None])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_the_mean_is_heard_where_it_loses_nothing(channels):
    generator = torch.Generator().manual_seed(0)
    unrelated = torch.randn(channels, 48_000, generator=generator)
    panned = torch.zeros(channels, 48_000)
    panned[0] = unrelated[0]
    for waveform in (unrelated, panned, unrelated[:1].expand(channels, -1), torch.zeros(channels, 48_000), torch.zeros(channels, 0)):
        assert not is_cancelled(waveform, 16_000)
        assert torch.equal(audible_mono(waveform, 16_000), waveform.mean(dim=0, keepdim=True))


def test_quad_in_opposite_phase_is_folded_to_what_is_there():
    voice = sine(440, 16_000)
    assert torch.equal(fold_down(torch.stack([voice, -voice, voice, -voice])), voice[None])
