"""Which part of which sound is used, and what is said about those that cannot be."""

import math

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.loudness import integrated_loudness
from wan_s2v_pack.wan_s2v_model.audio.selection import Sound, select, select_sounds

RATE_HZ = 1000


def audio(seconds=4.0, *, channels=2, rate_hz=RATE_HZ):
    """A ramp: sample i is i / rate / 10."""
    ramp = torch.arange(round(seconds * rate_hz)) / rate_hz / 10
    return {"waveform": ramp.expand(1, channels, -1), "sample_rate": rate_hz}


@pytest.mark.parametrize(
    ("start", "duration", "first", "count"), [(0, 0, 0.0, 4000), (1.5, 0, 0.15, 2500), (1.5, 2, 0.15, 2000), (3, 9, 0.3, 1000)]
)
def test_part_begins_at_the_start_and_lasts_as_long_as_asked(start, duration, first, count):
    sound = select("audio", audio(), start, duration)
    assert sound.waveform.shape == (2, count)
    assert sound.waveform[0, 0].item() == pytest.approx(first)
    assert sound.seconds == count / RATE_HZ


def test_given_sound_is_not_shared():
    given = audio()
    select("audio", given, 0, 0).waveform.zero_()
    assert given["waveform"].max() > 0


def test_surround_becomes_stereo_and_only_the_first_sound_counts(caplog):
    given = audio(channels=6)
    given["waveform"] = torch.cat([given["waveform"], torch.ones(1, 6, 4000)])
    sound = select("audio", given, 0, 0)
    assert sound.waveform.shape[0] == 2
    assert sound.waveform[0, 0] == 0
    assert "audio holds 2 sounds; only the first one is used" in caplog.text


def test_selected_part_has_the_wanted_loudness():
    tone = torch.sin(torch.arange(16_000.0)).expand(1, 1, -1) * torch.linspace(0.01, 0.1, 16_000)
    sound = select("audio", {"waveform": tone, "sample_rate": 8000}, 1.0, 1.0, -20.0)
    assert integrated_loudness(*sound) == pytest.approx(-20, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "start", "message"),
    [
        (None, 0, "There is no driving_audio: the video that it comes from has no sound"),
        (audio(0), 0, "The driving_audio is empty"),
        (audio(), 4, r"Nothing is selected: start 4 s lies behind the end of the driving_audio \(4.00 s\)"),
        ({"waveform": torch.full((1, 1, 9), math.nan), "sample_rate": RATE_HZ}, 0, "The driving_audio contains NaN"),
        ({"waveform": torch.tensor([[[0.0, -math.inf]]]), "sample_rate": RATE_HZ}, 0, "The driving_audio contains NaN or infinite samples"),
    ],
)
def test_unusable_sounds_are_refused(given, start, message):
    with pytest.raises(ValueError, match=message):
        select("driving_audio", given, start, 0)


def test_without_a_driving_sound_the_played_one_is_heard():
    played, heard = select_sounds(audio(), None, 0, 0, 0)
    assert played is heard
    assert isinstance(played, Sound)


@pytest.mark.parametrize(
    ("seconds", "message"), [(3.0, "driving_audio ends 1.00 s before audio"), (5.0, "driving_audio is 1.00 s longer"), (4.02, "")]
)
def test_driving_sound_of_another_length(seconds, message, caplog):
    caplog.set_level("INFO")
    played, heard = select_sounds(audio(), audio(seconds), 0, 0, 0)
    assert (played.seconds, heard.seconds) == (4.0, seconds)
    assert message in caplog.text
    assert bool(caplog.records) == bool(message)


def test_what_is_heard_should_not_be_silent(caplog):
    select_sounds(audio(), {"waveform": torch.zeros(1, 1, 4000), "sample_rate": RATE_HZ}, 0, 0, 0)
    assert "the selected audio is silent; the mouth will hardly move" in caplog.text


def test_stereo_in_opposite_phase_is_heard_and_played_as_it_is(caplog):
    """The model heard silence, without a word."""
    voice = torch.sin(torch.arange(4000.0) * 0.3) * 0.5
    played, heard = select_sounds({"waveform": torch.stack([voice, -voice])[None], "sample_rate": RATE_HZ}, None, 0, 0, 0)
    assert played.waveform.shape[0] == 2
    assert torch.equal(heard.waveform, voice[None])
    assert "the channels of audio are in opposite phase" in caplog.text
    assert "silent" not in caplog.text


@pytest.mark.parametrize("waveform", [torch.zeros(4000), torch.zeros(2, 4000, dtype=torch.int16), torch.zeros(1, 4000, 2)])
def test_sounds_of_other_shapes_go_through_the_same_door(waveform):
    assert select("audio", {"waveform": waveform, "sample_rate": "1000"}, 1.0, 0).seconds == 3.0
