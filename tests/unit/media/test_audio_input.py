"""Which sounds of other nodes are taken, and as what."""

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.audio_input import read_audio

RATE = 16_000
STEREO = torch.rand(1, 2, 4000, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
WORDS = r"audio must be \[batch, channels, samples\]"


class Lazy(Mapping):
    """Reads its file when it is asked, as the AUDIO of video loaders does."""

    def __init__(self):
        self.asked = []

    def __getitem__(self, key):
        self.asked.append(key)
        return {"waveform": STEREO, "sample_rate": RATE}[key]

    def __iter__(self):
        return iter(("waveform", "sample_rate"))

    def __len__(self):
        return 2


def integers(dtype, scale, offset=0):
    return (STEREO.double() * scale + offset).round().to(dtype)


@pytest.mark.parametrize(
    ("waveform", "expected"),
    [
        (STEREO, STEREO[0]),
        (STEREO[0], STEREO[0]),
        (STEREO[0, 0], STEREO[0, :1]),
        (STEREO.transpose(1, 2), STEREO[0]),
        (STEREO[0].T, STEREO[0]),
        (STEREO.numpy(), STEREO[0]),
        (STEREO.numpy()[..., ::-1], STEREO[0].flip(-1)),
        (STEREO.numpy().astype(">f8"), STEREO[0]),
        (STEREO.tolist(), STEREO[0]),
        (list(STEREO[0]), STEREO[0]),
        (STEREO.double(), STEREO[0]),
        (integers(torch.int16, 32768), STEREO[0]),
        (integers(torch.int16, 32768).numpy(), STEREO[0]),
        (integers(torch.int32, 1 << 31), STEREO[0]),
        (integers(torch.uint8, 128, 128), STEREO[0]),
        (torch.cat([STEREO, STEREO / 2]), STEREO[0]),
    ],
)
def test_what_is_clear_is_taken(waveform, expected):
    """Integers played as noise at full scale, channels behind the samples as a mute file."""
    sound = read_audio("audio", {"waveform": waveform, "sample_rate": RATE})
    assert (sound.waveform.dtype, sound.sample_rate_hz) == (torch.float32, RATE)
    tolerance = 0.01 if getattr(waveform, "dtype", None) == torch.uint8 else 1e-4
    torch.testing.assert_close(sound.waveform, expected, atol=tolerance, rtol=0)


def test_any_mapping_is_asked_once():
    lazy = Lazy()
    assert torch.equal(read_audio("audio", lazy).waveform, STEREO[0])
    assert lazy.asked.count("waveform") == 1


@pytest.mark.parametrize("rate", ["44100", " 44100 ", 44100.0, np.int32(44100), torch.tensor(44100), Fraction(44100)])
def test_rates_that_are_clear(rate):
    assert read_audio("audio", {"waveform": STEREO, "sample_rate": rate}).sample_rate_hz == 44_100


@pytest.mark.parametrize("rate", [0, -16000, None, "", "fast", "44.1 kHz", float("nan"), float("inf"), True, 44_100.5, 10**9, [44100, 1]])
def test_rates_that_are_refused(rate):
    with pytest.raises(ValueError, match=rf"driving_audio: {WORDS}.*; got the sample_rate "):
        read_audio("driving_audio", {"waveform": STEREO, "sample_rate": rate})


@pytest.mark.parametrize(
    ("audio", "got"),
    [
        (STEREO, "got a Tensor"),
        ("speech.wav", "got a str"),
        ([], "got a list"),
        ({}, "got one without waveform and sample_rate"),
        ({"waveform": STEREO}, "got one without sample_rate"),
        ({"samples": STEREO, "sample_rate": RATE}, "got one without waveform"),
        ({"waveform": None, "sample_rate": RATE}, "got no waveform"),
        ({"waveform": "speech.wav", "sample_rate": RATE}, "got a str that is no array of numbers"),
        ({"waveform": [[0.0], [0.0, 1.0]], "sample_rate": RATE}, "got a list that is no array of numbers"),
        ({"waveform": torch.tensor(0.0), "sample_rate": RATE}, r"got the shape \[\]"),
        ({"waveform": STEREO[None], "sample_rate": RATE}, r"got the shape \[1, 1, 2, 4000\]"),
        ({"waveform": torch.zeros(1, 500, 500), "sample_rate": RATE}, r"got the shape \[1, 500, 500\]"),
        ({"waveform": torch.zeros(1, 1, 9, dtype=torch.int64), "sample_rate": RATE}, "got samples of the type int64"),
        ({"waveform": torch.zeros(1, 1, 9, dtype=torch.bool), "sample_rate": RATE}, "got samples of the type bool"),
        ({"waveform": torch.zeros(1, 1, 9, dtype=torch.complex64), "sample_rate": RATE}, "got samples of the type complex64"),
    ],
)
def test_what_is_no_sound_is_refused_in_words(audio, got):
    with pytest.raises(ValueError, match=f"audio: {WORDS}.*; {got}"):
        read_audio("audio", audio)


@pytest.mark.parametrize("waveform", [[], torch.zeros(0), torch.zeros(0, 2, 100), torch.zeros(1, 2, 0), torch.zeros(1, 0, 100)])
def test_an_empty_sound_has_no_samples(waveform):
    assert read_audio("audio", {"waveform": waveform, "sample_rate": RATE}).waveform.numel() == 0


@pytest.mark.parametrize("gain", [1.25, 32768.0])
def test_a_sound_above_full_scale_becomes_quieter_as_a_whole(gain, caplog):
    waveform = STEREO * gain / STEREO.abs().max()
    waveform[0, 0, 7] = float("nan")
    sound = read_audio("audio", {"waveform": waveform, "sample_rate": RATE}).waveform
    assert sound.nan_to_num().abs().max() == pytest.approx(1)
    torch.testing.assert_close(sound, waveform[0] / gain, equal_nan=True)
    assert f"audio reaches {gain:.3g} times full scale: it becomes quieter by" in caplog.text
