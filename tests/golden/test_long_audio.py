"""The audio encoder in ComfyUI's memory management: progress, cancelling, windows where the device is too small, features on the disk."""

import logging

import pytest
import torch
from wan_s2v_pack.tests.golden.cases_audio import find_wav2vec_folders, weights_file
from wan_s2v_pack.tests.golden.comfyui import pack_module

pytestmark = pytest.mark.comfy

SECONDS = 4


@pytest.fixture(scope="module")
def encoder(bridge, golden_folder):
    return bridge.AudioEncoder(str(weights_file(find_wav2vec_folders(golden_folder)[0])), "fp32")


@pytest.fixture
def waveform():
    return 0.1 * torch.randn(SECONDS * 16_000, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small_pieces(monkeypatch):
    module = pack_module("wan_s2v_model.audio.wav2vec2")
    for name in ("FRONT_PIECE", "ROW_PIECE"):
        monkeypatch.setattr(module, name, 20)


def stacked(layers):
    return torch.stack([layer.clone() for layer in layers])


@pytest.mark.usefixtures("small_pieces")
def test_progress_bar_moves_and_reaches_its_end(encoder, waveform, monkeypatch):
    import comfy.utils

    values = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *args, **kwargs: values.append((value, total)))
    for _ in encoder.hidden_layers(waveform):
        pass
    assert len(values) >= 2  # ComfyUI leaves out what comes within a tenth of a second
    assert values == sorted(values)
    assert values[-1] == (1000, 1000)


@pytest.mark.usefixtures("small_pieces")
def test_cancelling_stops_within_a_piece(encoder, waveform, monkeypatch):
    import comfy.model_management
    import comfy.utils

    values = []

    def cancel_in_the_middle(bar, value):
        values.append(value)
        if value >= 500:
            comfy.model_management.interrupt_current_processing()

    update = comfy.utils.ProgressBar.update_absolute
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancel_in_the_middle)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        list(encoder.hidden_layers(waveform))
    assert sum(value >= 500 for value in values) == 1
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    assert torch.isfinite(stacked(encoder.hidden_layers(waveform))).all()  # ready for the next prompt


def test_a_device_that_is_large_enough_gives_the_whole(encoder, waveform, monkeypatch, caplog):
    expected = encoder.hidden_states(waveform)
    monkeypatch.setattr(pack_module("wan_s2v_model.comfy_bridge.loaders"), "WINDOW_FRAMES", 50)
    assert torch.equal(encoder.hidden_states(waveform), expected)
    assert "hears only" not in caplog.text


def test_a_device_that_is_too_small_gets_windows_and_the_log_says_so(encoder, waveform, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger="wan_s2v")
    expected = encoder.hidden_states(waveform)
    audio, wav2vec2 = pack_module("wan_s2v_model.comfy_bridge.loaders"), pack_module("wan_s2v_model.audio.wav2vec2")
    for module in (audio, wav2vec2):
        monkeypatch.setattr(module, "WINDOW_FRAMES", 50)
    monkeypatch.setattr(audio, "CONTEXT_FRAMES", 25)
    monkeypatch.setattr(audio, "obtainable_memory", lambda device: 1e5)
    windowed = encoder.hidden_states(waveform)
    assert windowed.shape == expected.shape
    assert torch.equal(windowed[0], expected[0])  # the front end and the positions are exact
    assert not torch.equal(windowed[1:], expected[1:])
    assert "each window of 0 minutes hears only" in caplog.text


def test_comfyuis_own_protocol(encoder, waveform):
    stereo = torch.stack([waveform, waveform])[None]
    heard = encoder.encode_audio(stereo, 16_000)
    expected = encoder.hidden_states(waveform)
    assert heard["audio_samples"] == SECONDS * 16_000
    assert torch.equal(torch.cat(heard["encoded_audio_all_layers"]), expected)
    assert torch.equal(heard["encoded_audio"], expected[-1:])


def test_node_keeps_a_long_sound_in_half_precision_in_the_temporary_folder(encoder, waveform, monkeypatch, tmp_path):
    import folder_paths

    node, feature_file = pack_module("nodes.audio").WanS2VAudioEncode, pack_module("wan_s2v_model.audio.feature_file")
    inputs = {"audio_encoder": encoder, "audio": {"waveform": waveform[None, None], "sample_rate": 16_000}, "start": 0.0, "duration": 0.0}
    short = node.execute(**inputs).args[0].features
    folders = []
    in_file = feature_file._in_file
    monkeypatch.setattr(feature_file, "FLOAT32_SECONDS", 1)
    monkeypatch.setattr(feature_file, "_in_file", lambda layers, folder: folders.append(folder) or in_file(layers, folder))
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path / "temp"))
    long = node.execute(**inputs).args[0].features
    assert long.dtype == torch.float16
    assert torch.equal(long, short.half())
    assert folders == [tmp_path / "temp"]


def test_rest_is_the_middle_of_encoded_silence(encoder, waveform):
    node = pack_module("nodes.audio").WanS2VAudioEncode
    inputs = {"audio_encoder": encoder, "audio": {"waveform": waveform[None, None], "sample_rate": 16_000}, "start": 0.0, "duration": 0.0}
    plain, rested = (node.execute(**inputs, silence=silence).args[0] for silence in ("model", "rest"))
    assert plain.silence is None
    assert torch.equal(rested.features, plain.features)
    silence = encoder.hidden_states(torch.zeros(80_000))
    resampled = pack_module("wan_s2v_model.audio.features").layer_at_fps
    assert torch.equal(rested.silence.features, torch.stack([resampled(layer)[:, 40] for layer in silence]))
    assert rested.silence.pauses == frozenset()


def test_a_louder_sound_has_the_same_features(encoder, waveform):
    node = pack_module("nodes.audio").WanS2VAudioEncode
    inputs = {"audio_encoder": encoder, "audio": {"waveform": waveform[None, None], "sample_rate": 16_000}, "start": 0.0, "duration": 0.0}
    plain, quiet = (node.execute(**inputs, loudness=loudness).args[0] for loudness in (0.0, -30.0))
    assert quiet.waveform.std() < 0.7 * plain.waveform.std()
    torch.testing.assert_close(quiet.features, plain.features, atol=1e-3, rtol=1e-3)
