"""Several speakers: what each is heard to say in each frame, and what is played."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.features import EncodedAudio, SilenceFeatures
from wan_s2v_pack.wan_s2v_model.audio.speakers import (
    EVERYWHERE,
    Box,
    JoinedAudio,
    Speaker,
    Speakers,
    join,
    parse_box,
    place_of,
    require_places,
    sound_of,
)
from wan_s2v_pack.wan_s2v_model.audio.turns import parse_turns
from wan_s2v_pack.wan_s2v_model.media.audio_input import Sound

RATE_HZ = 1600  # 100 samples a frame
SILENCE = torch.full((2, 3), -1.0)
LEFT, RIGHT = parse_box("0 0 50% 100%"), parse_box("50% 0 50% 100%")


def sound(frames, value, *, channels=1, rate_hz=RATE_HZ, pauses=None):
    """Features that count the frames from `value` on, and a waveform of that value."""
    features = (value + torch.arange(float(frames))).expand(2, 3, -1)
    silence = None if pauses is None else SilenceFeatures(SILENCE, frozenset(pauses))
    return EncodedAudio(features, torch.full((channels, frames * rate_hz // 16), value / 1000), rate_hz, frames * 1000, silence)


def speakers(*given, **settings):
    return Speakers(tuple(given), SILENCE, **settings)


def heard(them, frames):
    """[speakers + 1, frames]: all layers and channels are alike."""
    values = them.heard(frames)
    assert values.shape == (1, len(them.speakers) + 1, 2, 3, len(frames))
    assert torch.equal(values, values[:, :, :1, :1].expand_as(values))
    return values[0, :, 0, 0].tolist()


def test_each_is_heard_from_its_start_on_and_silence_before_and_behind():
    them = speakers(Speaker(1, LEFT, sound(3, 100)), Speaker(2, RIGHT, sound(2, 200), start=2), Speaker(3, RIGHT))
    assert heard(them, [0, 0, 1, 2, 3, 4, None]) == [
        [100, 100, 101, 102, -1, -1, -1],
        [-1, -1, -1, 200, 201, -1, -1],
        [-1] * 7,
        [-1] * 7,
    ]


def test_pauses_of_a_sound_go_with_its_start():
    them = speakers(Speaker(1, LEFT, sound(4, 100, pauses=[1, 2]), start=1))
    assert heard(them, list(range(6)))[0] == [-1, 100, -1, -1, 103, -1]


def test_outside_of_their_turns_they_are_silent():
    turns = parse_turns("0s 1\n0.25s 2\n0.5s nobody")
    them = speakers(Speaker(1, LEFT, sound(16, 100)), Speaker(2, RIGHT, sound(16, 200)), turns=turns)
    first, second, _ = heard(them, list(range(12)))
    assert first == [100, 101, 102, 103, *[-1] * 8]
    assert second == [*[-1] * 4, 204, 205, 206, 207, *[-1] * 4]


def test_all_are_played_together():
    them = speakers(Speaker(1, LEFT, sound(3, 100)), Speaker(2, RIGHT, sound(2, 200, channels=2), start=2, gain_db=-20))
    joined = join(them)
    assert isinstance(joined, JoinedAudio)
    assert joined.waveform.shape == (2, 400)
    assert joined.num_samples_16khz == 4000
    expected = [0.1] * 200 + [0.1 + 0.02] * 100 + [0.02] * 100
    torch.testing.assert_close(joined.waveform, torch.tensor([expected] * 2))


def test_the_highest_rate_is_played():
    joined = join(speakers(Speaker(1, LEFT, sound(16, 100)), Speaker(2, RIGHT, sound(16, 0, rate_hz=4800), start=8)))
    assert joined.sample_rate_hz == 4800
    assert joined.waveform.shape == (1, 4800 * 24 // 16)
    torch.testing.assert_close(joined.waveform[0, 500:2000], torch.full((1500,), 0.1), atol=2e-3, rtol=0)


def test_what_would_clip_becomes_quieter_as_a_whole():
    joined = join(speakers(Speaker(1, LEFT, sound(2, 800)), Speaker(2, RIGHT, sound(1, 800))))
    torch.testing.assert_close(joined.waveform[0, [0, 150]], torch.tensor([1.0, 0.5]))


def test_turns_are_played_with_short_fades():
    them = speakers(Speaker(1, LEFT, sound(16, 100)), Speaker(2, RIGHT, sound(16, 200), start=4), turns=parse_turns("0s 1\n0.5s 2"))
    waveform = join(them).waveform[0]
    assert waveform.shape == (2000,)
    torch.testing.assert_close(waveform[:784], torch.full((784,), 0.1))
    torch.testing.assert_close(waveform[816:], torch.full((1184,), 0.2))
    assert waveform[[799, 800]].abs().max() < 0.01


def test_another_sound_is_played_and_decides_the_length():
    played = Sound(torch.zeros(2, 48_000), 48_000)
    joined = join(speakers(Speaker(1, LEFT, sound(3, 100)), Speaker(2, RIGHT)), played)
    assert joined.waveform is played.waveform
    assert joined.num_samples_16khz == 16_000


def test_who_is_missing_is_named():
    with pytest.raises(ValueError, match="Nobody has a sound"):
        join(speakers(Speaker(1, LEFT)))
    with pytest.raises(ValueError, match=r"The turns name speaker 3, who has no sound\. Speakers with a sound: 1, 2"):
        join(speakers(Speaker(1, LEFT, sound(3, 1)), Speaker(2, LEFT, sound(3, 1)), Speaker(3, RIGHT), turns=parse_turns("0s 3")))
    other = EncodedAudio(torch.zeros(2, 4, 3), torch.zeros(1, 100), RATE_HZ, 1000)
    with pytest.raises(ValueError, match="audio encoders of different sizes"):
        join(speakers(Speaker(1, LEFT, sound(3, 1)), Speaker(2, RIGHT, other)))


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("50% 0 50% 100%", (50, 0, 100, 60)),
        ("10, 20, 30, 20", (10, 20, 40, 40)),
        ("90 10% 100 500", (90, 6, 100, 60)),
        ("200 0 10 10", (100, 0, 100, 10)),
        ("33.3% 0 33.4% 100%", (33, 0, 67, 60)),
    ],
)
def test_boxes(text, pixels):
    assert parse_box(text).pixels(60, 100) == pixels


@pytest.mark.parametrize("text", ["", "1 2 3", "a b c d", "0 0 0 10", "-1 0 10 10", "nan 0 1 1", "inf 0 1 1", "1 2 3 4 5", "10 % 0 1"])
def test_no_boxes(text):
    with pytest.raises(ValueError, match="A box is left, top, width and height"):
        parse_box(text)


def test_half_a_box_and_the_other_meet():
    left, right = Box.pixels(LEFT, 64, 127), Box.pixels(RIGHT, 64, 127)
    assert left[2] == right[0]


def test_a_place_is_a_mask_or_a_box():
    mask = torch.ones(1, 4, 4)
    assert place_of(1, mask, " ") is mask
    assert place_of(1, None, "") is None
    assert place_of(1, None, "0 0 50% 100%") == LEFT
    with pytest.raises(ValueError, match=r"Speaker 2 has both a mask and a box\. Disconnect mask_2, or empty box_2"):
        place_of(2, mask, "0 0 1 1")
    with pytest.raises(ValueError, match="box_3: A box is left, top"):
        place_of(3, None, "0 0 1")


def test_a_sound_that_is_joined_already_and_one_without_a_place(caplog):
    caplog.set_level("INFO")
    own = sound(3, 1)
    assert sound_of(1, own) is own
    with pytest.raises(ValueError, match="encoded_audio_2 comes from Speakers already"):
        sound_of(2, join(speakers(Speaker(1, LEFT, own))))
    require_places([Speaker(1, EVERYWHERE, own)])
    require_places([Speaker(1, LEFT, own), Speaker(3, RIGHT)])
    assert "speaker 3 has a place in the picture and no sound: it listens in silence" in caplog.text
    with pytest.raises(ValueError, match="Speaker 2 has a sound, but no place in the picture"):
        require_places([Speaker(1, LEFT, own), Speaker(2, EVERYWHERE, own)])


@pytest.mark.parametrize(
    ("speaker", "is_unchanged"),
    [
        (Speaker(1, EVERYWHERE, sound(3, 1)), True),
        (Speaker(2, parse_box("0 0 100% 100%"), sound(3, 1)), True),
        (Speaker(1, torch.ones(1, 4, 4), sound(3, 1)), True),
        (Speaker(1, torch.tensor([[[1.0, 0.0]]]), sound(3, 1)), False),
        (Speaker(1, LEFT, sound(3, 1)), False),
        (Speaker(1, EVERYWHERE), False),
        (Speaker(1, EVERYWHERE, sound(3, 1), start=1), False),
        (Speaker(1, EVERYWHERE, sound(3, 1), gain_db=1.0), False),
    ],
)
def test_who_alone_fills_the_picture_is_no_case_for_regions(speaker, is_unchanged):
    assert speaker.is_unchanged is is_unchanged


def test_sounds_of_other_frame_rates():
    live = [replace(sound(3, 1), fps=25), replace(sound(3, 1), fps=25)]
    joined = join(speakers(Speaker(1, LEFT, live[0]), Speaker(2, RIGHT, live[1], start=25)))
    assert joined.fps == 25
    assert joined.waveform.shape == (1, RATE_HZ + 300)
    with pytest.raises(ValueError, match="videos of 16 and 25 frames per second"):
        join(speakers(Speaker(1, LEFT, live[0]), Speaker(2, RIGHT, sound(3, 1))))


@pytest.mark.parametrize(
    ("turns", "levels"),
    [
        ("", [0.1] * 4),
        ("0s 1\n0.25s 2\n0.5s 1 and 2\n0.75s nobody", [0.1, 0.1, 0.1, 0.0]),
        ("0s 1 and 2\n0.25s nobody\n0.5s 2", [0.1, 0.0, 0.1, 0.1]),
    ],
)
def test_a_recording_that_two_share_is_played_once(turns, levels):
    recording = sound(16, 100)
    them = speakers(Speaker(1, LEFT, recording), Speaker(2, RIGHT, recording), turns=parse_turns(turns))
    waveform = join(them).waveform[0]
    assert waveform[200::400].tolist() == pytest.approx(levels)
    if turns.startswith("0s 1\n"):
        assert waveform[:1100].min() > 0.09, "no fade where the turn passes on within one recording"


@pytest.mark.parametrize("seconds", [602, 100_000])
def test_hours_of_silence_in_front_of_a_sound_are_refused_before_they_are_made(seconds):
    """At 48 kHz in stereo 100,000 s would take 38 GB."""
    late = Speaker(2, RIGHT, sound(16, 200, rate_hz=48_000, channels=2), start=seconds * 16)
    them = speakers(Speaker(1, LEFT, sound(16, 100)), late)
    with pytest.raises(ValueError, match=rf"Speaker 2 begins at {seconds}(\.0)? s, .*Lower start_2, or connect played_audio"):
        join(them)
    assert join(them, Sound(torch.zeros(1, RATE_HZ), RATE_HZ)).waveform.shape == (1, RATE_HZ)


def test_a_pause_of_minutes_is_silence():
    joined = join(speakers(Speaker(1, LEFT, sound(16, 100)), Speaker(2, RIGHT, sound(16, 200), start=601 * 16)))
    assert joined.waveform.shape == (1, 602 * RATE_HZ)
    assert joined.waveform.count_nonzero() == 2 * RATE_HZ
