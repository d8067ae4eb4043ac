"""Surround sound becomes stereo at the level it has in a living room."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.loudness import integrated_loudness
from wan_s2v_pack.wan_s2v_model.stereo import SHARED, fold_down

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
