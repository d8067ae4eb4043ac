"""The way from two sounds to features, with an encoder whose layers are known."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.features import num_wav2vec_frames
from wan_s2v_pack.wan_s2v_model.audio.listening import SILENCE_S, Listener, listen
from wan_s2v_pack.wan_s2v_model.audio.selection import Sound

RATE_HZ = 16_000


class Encoder:
    """Two layers of three channels that hold the mean of the sound under each frame, and twice that."""

    def __init__(self, folder):
        self.heard, self.runs = [], 0
        self.listener = Listener(self.hidden_layers, folder, self.run)

    def hidden_layers(self, waveform):
        self.heard.append(waveform)
        frames = waveform[: num_wav2vec_frames(len(waveform)) * 320].unflatten(0, (-1, 320)).mean(dim=1)
        yield from (frames[:, None].expand(-1, 3), 2 * frames[:, None].expand(-1, 3))

    def run(self, work):
        self.runs += 1
        return work()

    def listen(self, played, heard, *, normalisation="file", silence="model", delay_ms=0):
        return listen(self.listener, played, heard, normalisation=normalisation, silence=silence, delay_ms=delay_ms)


@pytest.fixture
def encoder(tmp_path):
    return Encoder(tmp_path)


@pytest.fixture
def sound(noise):
    return Sound(0.1 * noise(2, 3 * RATE_HZ), RATE_HZ)


def test_sound_is_heard_normalised_and_kept_as_it_is_played(encoder, sound):
    encoded = encoder.listen(sound, sound)
    assert encoded.waveform is sound.waveform
    assert (encoded.sample_rate_hz, encoded.num_samples_16khz, encoded.silence) == (RATE_HZ, 3 * RATE_HZ, None)
    (heard,) = encoder.heard
    torch.testing.assert_close(torch.stack(torch.std_mean(heard, correction=0)), torch.tensor([1.0, 0.0]), atol=1e-3, rtol=0)
    assert encoded.features.shape[:2] == (2, 3)
    torch.testing.assert_close(encoded.features[1], 2 * encoded.features[0])
    assert encoder.runs == 1


def test_driving_sound_is_cut_to_the_played_one(encoder, sound, noise):
    heard = Sound(noise(1, 5 * RATE_HZ), RATE_HZ)
    encoded = encoder.listen(sound, heard)
    assert encoded.waveform is sound.waveform
    assert (encoded.num_samples_16khz, len(encoder.heard[0])) == (3 * RATE_HZ, 3 * RATE_HZ)
    assert torch.corrcoef(torch.stack([encoder.heard[0], heard.waveform[0, : 3 * RATE_HZ]]))[0, 1] > 0.999


def test_delay_puts_silence_in_front(encoder, sound):
    encoder.listen(sound, sound, delay_ms=500)
    assert encoder.heard[0][: RATE_HZ // 2].abs().max() == 0
    assert encoder.heard[0][RATE_HZ // 2 :].abs().max() > 1


@pytest.mark.parametrize(("silence", "has_pauses"), [("rest", False), ("rest in pauses", True)])
def test_rest_is_what_the_encoder_makes_of_silence(encoder, sound, silence, has_pauses):
    sound.waveform[:, RATE_HZ : 2 * RATE_HZ] = 0
    rest = encoder.listen(sound, sound, silence=silence).silence
    assert len(encoder.heard[1]) == SILENCE_S * RATE_HZ
    assert not encoder.heard[1].any()
    assert torch.equal(rest.features, torch.zeros(2, 3))
    assert bool(rest.pauses) == has_pauses
    assert rest.pauses <= set(range(16, 32))


def test_a_blink_is_refused_with_its_length(encoder, noise):
    blink = Sound(noise(1, 640), RATE_HZ)
    with pytest.raises(ValueError, match=r"lasts 0\.040 s as the model hears it; at least 0\.05 s is needed"):
        encoder.listen(blink, blink)
