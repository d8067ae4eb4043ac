"""From a waveform to one feature vector per video frame."""

import math
from fractions import Fraction

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio import features as af

CONV_LAYERS = zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)  # kernels and strides of wav2vec2


def sine(frequency_hz, rate_hz, seconds=1.0):
    return torch.sin(2 * math.pi * frequency_hz * torch.arange(int(rate_hz * seconds), dtype=torch.float64) / rate_hz).float()


# Counts


def test_wav2vec_frames_follow_from_its_convolutions():
    layers = list(CONV_LAYERS)
    for num_samples in [*range(0, 2000, 3), 16_000, 80_079, 80_080, 1_234_567]:
        length = num_samples
        for kernel, stride in layers:
            length = max(0, (length - kernel) // stride + 1)
        assert af.num_wav2vec_frames(num_samples) == length


@pytest.mark.parametrize(
    ("num_wav2vec", "rows"),
    [(0, 0), (1, 0), (2, 1), (49, 29), (249, 149), (250, 150), (251, 150), (499, 299), (500, 300), (1499, 899), (3857, 2314)],
)
def test_rows(num_wav2vec, rows):
    assert af.num_audio_rows(num_wav2vec) == rows


@pytest.mark.parametrize(("num_wav2vec", "rows"), [(205, 122), (410, 245), (820, 491), (845, 506), (1615, 968)])
def test_rows_lose_one_where_double_arithmetic_of_the_reference_does(num_wav2vec, rows):
    assert af.num_audio_rows(num_wav2vec) == rows == num_wav2vec * 3 // 5 - 1


def test_number_of_lengths_at_which_double_arithmetic_loses_a_row():
    assert sum(af.num_audio_rows(count) != count * 3 // 5 for count in range(200_000)) == 546


def test_rows_of_frames():
    rows = [af.row_of_frame(frame) for frame in range(17)]
    assert rows == [0, 2, 4, 6, 8, 9, 11, 13, 15, 17, 19, 21, 22, 24, 26, 28, 30]  # ties at frames 4 (7.5) and 12 (22.5) go to the even row


def test_row_is_the_nearest_one():
    assert all(abs(af.row_of_frame(frame) - Fraction(30, 16) * frame) <= Fraction(1, 2) for frame in range(5000))


@pytest.mark.parametrize(("rows", "frames"), [(0, 0), (1, 1), (2, 1), (3, 2), (29, 16), (122, 65), (149, 80), (150, 80), (2314, 1234)])
def test_frames_with_a_row(rows, frames):
    assert af.num_audio_frames(rows) == frames


def test_frames_are_all_those_with_a_row():
    for rows in range(1, 3000):
        frames = af.num_audio_frames(rows)
        assert af.row_of_frame(frames - 1) < rows <= af.row_of_frame(frames)


def test_rows_and_frames_at_25_frames_per_second():
    assert [af.row_of_frame(frame, 25) for frame in range(10)] == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11]
    for rows in range(1, 3000):
        frames = af.num_audio_frames(rows, 25)
        assert af.row_of_frame(frames - 1, 25) < rows <= af.row_of_frame(frames, 25)


def test_features_at_25_frames_per_second_are_those_rows():
    hidden = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    rows = af.resample_rows(hidden[None])[0]
    picked = af.layer_at_fps(hidden, 25)
    assert torch.equal(picked, torch.stack([rows[af.row_of_frame(frame, 25)] for frame in range(50)], dim=1))


# Waveform


def test_normalised_sound_has_zero_mean_and_unit_population_variance(noise):
    waveform = af.normalise(3 + 5 * noise(4, seed=1))
    assert waveform.mean().abs() < 1e-6
    assert waveform.square().mean() == pytest.approx(1, abs=1e-5)


def test_silence_is_normalised_to_silence():
    assert torch.equal(af.normalise(torch.full((100,), 0.25)), torch.zeros(100))


# Resampling and picking


def test_rows_align_at_both_ends_and_are_linear_between(noise):
    hidden = noise(2, 49, 3)
    rows = af.resample_rows(hidden)
    assert rows.shape == (2, 29, 3)
    torch.testing.assert_close(rows[:, [0, -1]], hidden[:, [0, -1]])
    for row in range(29):
        position = row * 48 / 28
        low = min(int(position), 47)
        expected = torch.lerp(hidden[:, low], hidden[:, low + 1], position - low)
        torch.testing.assert_close(rows[:, row], expected, atol=1e-5, rtol=0)


def test_too_short_sound_has_no_rows(noise):
    assert af.resample_rows(noise(2, 1, 3)).shape == (2, 0, 3)
    assert af.pick_frames(noise(2, 0, 3)).shape == (2, 3, 0)


def test_frames_take_their_row():
    rows = torch.arange(149.0)[None, :, None].repeat(2, 1, 3)
    frames = af.pick_frames(rows)
    assert frames.shape == (2, 3, 80)
    assert frames[0, 0, [0, 4, 12, 79]].tolist() == [0, 8, 22, 148]


@pytest.mark.parametrize("num_channels", [3, af.CHANNELS_PIECE, af.CHANNELS_PIECE + 1])
def test_layer_by_layer_is_the_same_as_all_layers_at_once(noise, num_channels):
    hidden = noise(4, 749, num_channels)
    at_once = af.pick_frames(af.resample_rows(hidden))
    assert torch.equal(torch.stack([af.layer_at_fps(layer) for layer in hidden]), at_once)


def test_half_precision_layer_is_resampled_in_float32(noise):
    layer = noise(100, 3).half()
    assert torch.equal(af.layer_at_fps(layer), af.layer_at_fps(layer.float()))


# Slots of a clip


def test_slots_without_sound_are_zero(noise):
    features = noise(2, 3, 10)
    slots = af.gather_frames(features, [0, 0, 5, None, 9, None])
    assert slots.shape == (1, 2, 3, 6)
    assert torch.equal(slots[0, :, :, [0, 1, 2, 4]], features[:, :, [0, 0, 5, 9]])
    assert torch.equal(slots[0, :, :, [3, 5]], torch.zeros(2, 3, 2))


def test_slots_of_half_precision_features_are_float32(noise):
    features = noise(2, 3, 10).half()
    assert torch.equal(af.gather_frames(features, [1, None, 2]), af.gather_frames(features.float(), [1, None, 2]))


def test_slots_at_rest_hear_real_silence(noise):
    features, silence = noise(2, 3, 10), noise(2, 3, seed=1)
    slots = af.gather_frames(features, [0, 4, 5, None, 9, 10, 99], af.SilenceFeatures(silence, frozenset({4, 5})))
    assert torch.equal(slots[0, :, :, [0, 4]], features[:, :, [0, 9]])
    assert torch.equal(slots[0, :, :, [1, 2, 3, 5, 6]], silence[:, :, None].expand(-1, -1, 5))


def test_frames_behind_what_is_heard_are_slots_without_sound(noise):
    features = noise(2, 3, 10)
    assert torch.equal(af.gather_frames(features, [9, 10, 99]), af.gather_frames(features, [9, None, None]))


def test_clip_without_any_sound(noise):
    assert torch.equal(af.gather_frames(noise(2, 3, 10), [None] * 4), torch.zeros(1, 2, 3, 4))
    assert torch.equal(af.gather_frames(noise(2, 3, 0), [None] * 4), torch.zeros(1, 2, 3, 4))
