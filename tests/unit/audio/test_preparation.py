"""What is done to a sound before wav2vec2 hears it."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio import preparation as ap
from wan_s2v_pack.wan_s2v_model.audio.features import normalise, num_audio_frames, num_audio_rows, num_wav2vec_frames
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.media.sound import to_mono_16khz

RATE_HZ = 16_000
FRAME = 1000  # samples


@pytest.fixture
def sound(noise):
    return 0.2 * noise(3 * RATE_HZ, seed=1) + 0.05


# What is heard


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("num_samples", [1, 440, 441, 16_001, 100_003])
def test_length_at_16_khz_is_what_the_resampler_gives(rate_hz, num_samples):
    assert ap.length_at_16khz(num_samples, rate_hz) == to_mono_16khz(torch.zeros(1, num_samples), rate_hz).shape[0]


def test_by_default_the_sound_is_normalised_as_the_reference_does(sound):
    assert torch.equal(ap.prepare_heard(sound, len(sound)), normalise(sound))


@pytest.mark.parametrize("extra", [1, 7000])
def test_what_lies_behind_the_played_sound_is_neither_heard_nor_counted(sound, extra):
    longer = torch.cat([sound, torch.full((extra,), 9.0)])
    assert torch.equal(ap.prepare_heard(longer, len(sound)), normalise(sound))


def test_a_shorter_sound_just_ends(sound):
    assert torch.equal(ap.prepare_heard(sound, 2 * len(sound)), normalise(sound))


@pytest.mark.parametrize("delay_ms", [1, 62, 187, 500])
def test_delay_puts_silence_in_front_and_keeps_the_length(sound, delay_ms):
    heard = ap.prepare_heard(sound, len(sound), delay_ms=delay_ms)
    shift = 16 * delay_ms
    assert len(heard) == len(sound)
    assert torch.equal(heard[:shift], torch.zeros(shift))
    assert torch.equal(heard[shift:], normalise(sound[:-shift]))


@pytest.mark.parametrize("delay_ms", [-1, -62, -500])
def test_negative_delay_skips_the_beginning(sound, delay_ms):
    assert torch.equal(ap.prepare_heard(sound, len(sound), delay_ms=delay_ms), normalise(sound[-16 * delay_ms :]))


def test_negative_delay_hears_more_of_a_longer_sound(sound):
    assert torch.equal(ap.prepare_heard(sound, 32_000, delay_ms=-500), normalise(sound[8000:40_000]))


@pytest.mark.parametrize("delay_ms", [-2000, 2000])
def test_delay_beyond_the_sound_leaves_nothing(delay_ms):
    assert ap.prepare_heard(torch.ones(RATE_HZ), RATE_HZ, delay_ms=delay_ms).shape == (0,)


@pytest.mark.parametrize("sync_mode", ["aligned", "official"])
@pytest.mark.parametrize("free_start", [True, False])
def test_no_frame_is_made_for_sound_behind_the_end_of_the_played_one(sync_mode, free_start):
    """Whatever is heard, and however much longer it is: a shown frame hears a moment inside the played sound, or nothing."""
    longer = torch.ones(12 * RATE_HZ)
    for num_samples in (800, 1499, 1500, 16_000, 79_999, 80_079, 80_080, 80_500, 81_300, 160_000, 160_080):
        timeline = plan_timeline(num_samples, RATE_HZ, num_samples, sync_mode=sync_mode, free_start=free_start)
        heard = ap.prepare_heard(longer, num_samples)
        num_frames = num_audio_frames(num_audio_rows(num_wav2vec_frames(len(heard))))
        slots = [frame for clip in range(timeline.num_clips) for frame in timeline.audio_frames(clip)]
        assert max((frame for frame in slots if frame is not None), default=0) < max(1, num_frames)
        assert (num_frames - 1) * FRAME < num_samples
        assert timeline.num_frames * FRAME <= num_samples + FRAME // 2


# Sliding statistics


def test_a_short_sound_is_normalised_as_a_file(sound):
    torch.testing.assert_close(ap.normalise_in_windows(sound), normalise(sound), atol=1e-4, rtol=0)


def test_both_halves_of_a_sound_that_becomes_quiet_are_heard_alike(noise):
    waveform = noise(60 * RATE_HZ) * 0.3 + 0.1
    waveform[30 * RATE_HZ :] *= 0.2
    heard = ap.normalise_in_windows(waveform)
    for part in (slice(0, 24), slice(36, 60)):
        seconds = heard[part.start * RATE_HZ : part.stop * RATE_HZ]
        assert seconds.mean().abs() < 0.01
        assert seconds.std().item() == pytest.approx(1, abs=0.01)
    assert normalise(waveform)[36 * RATE_HZ :].std() < 0.35


def test_window_is_10_s_wide(noise):
    waveform = torch.zeros(40 * RATE_HZ)
    waveform[20 * RATE_HZ :] = noise(20 * RATE_HZ)
    gain = ap.normalise_in_windows(waveform)[20 * RATE_HZ :] / waveform[20 * RATE_HZ :]
    by_second = gain.unflatten(0, (20, RATE_HZ)).median(dim=1).values
    assert by_second[0].item() == pytest.approx(2**0.5, rel=0.1)  # half of its window is silent
    assert torch.allclose(by_second[6:], torch.ones(14), atol=0.02)


def test_noise_of_a_pause_is_raised_by_no_more_than_20_db(noise):
    waveform = noise(60 * RATE_HZ) * 0.001
    waveform[: 20 * RATE_HZ] *= 1000
    pause = ap.normalise_in_windows(waveform)[40 * RATE_HZ :]
    assert pause.std().item() == pytest.approx(10 * normalise(waveform)[40 * RATE_HZ :].std().item(), rel=0.02)


@pytest.mark.parametrize("num_samples", [1, 1599, 1600, 1601, 161_234])
def test_every_length_is_kept(noise, num_samples):
    heard = ap.prepare_heard(noise(num_samples), num_samples, normalisation="window")
    assert heard.shape == (num_samples,)
    assert torch.isfinite(heard).all()


def test_silence_stays_silence():
    assert torch.equal(ap.normalise_in_windows(torch.zeros(5000)), torch.zeros(5000))


# Pauses


def speech(*parts):
    """Noise that stands for speech (1) or a pause (0) at the given level, by number of frames."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([level * torch.randn(frames * FRAME, generator=generator) for level, frames in parts])


@pytest.mark.parametrize(
    ("parts", "pauses"),
    [
        ([(1, 20), (0, 8), (1, 20)], range(22, 26)),  # 0.5 s, less 0.125 s on either side
        ([(1, 20), (0, 7), (1, 20)], []),  # too short
        ([(0, 10), (1, 20)], range(8)),  # no speech in front of it
        ([(1, 20), (0, 10)], range(22, 30)),  # nor behind it
        ([(1, 20), (0.01, 16), (1, 20)], range(22, 34)),  # 40 dB below: the noise of a room
        ([(1, 20), (0.03, 16), (1, 20)], []),  # 30 dB below: a voice far away, or music
        ([(1, 20), (0, 8), (1, 1), (0, 8), (1, 20)], [*range(22, 26), *range(31, 35)]),
        ([(0, 12)], range(12)),  # all silent
        ([(1, 12)], []),
    ],
)
def test_pauses(parts, pauses):
    assert ap.find_pauses(speech(*parts)) == frozenset(pauses)


def test_pauses_do_not_depend_on_the_level_of_the_file():
    waveform = speech((1, 20), (0.01, 16), (1, 20))
    assert ap.find_pauses(waveform * 1e-3) == ap.find_pauses(normalise(waveform)) == ap.find_pauses(waveform)


def test_a_last_frame_that_is_not_whole_counts():
    assert ap.find_pauses(speech((1, 20), (0, 10))[:-1]) == frozenset(range(22, 30))


def test_pauses_at_25_frames_per_second_are_as_long_and_keep_as_much_sound_at_their_ends():
    waveform = torch.cat([speech((1, 32)), torch.zeros(RATE_HZ), speech((1, 32))])
    assert ap.find_pauses(waveform, 25) == frozenset(range(50 + 4, 75 - 4))
    assert not ap.find_pauses(torch.cat([speech((1, 32)), torch.zeros(RATE_HZ * 12 // 25), speech((1, 32))]), 25)
