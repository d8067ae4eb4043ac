"""Loading wav2vec2 from every layout in which it is published."""

import json

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.wan_s2v_model.audio.features import hidden_states
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.wav2vec2 import load_wav2vec2

CONFIG = {
    "model_type": "wav2vec2",
    "architectures": ["Wav2Vec2ForCTC"],
    "hidden_size": 32,
    "num_hidden_layers": 24,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [8] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
POSITIONAL = "encoder.pos_conv_embed.conv."
BESIDE = r"model\.safetensors does not fit the config\.json beside it"
NEW_NAMES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def make_model(config, randomised):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return randomised(Wav2Vec2Model(Wav2Vec2Config(**config))).train(False)


@pytest.fixture(scope="module")
def original(randomised):
    return make_model(CONFIG, randomised)


@pytest.fixture(scope="module")
def tensors(original):
    return dict(original.state_dict())


@pytest.fixture(scope="module")
def expected(original, noise):
    return hidden_states(original, noise(3200))


def old_spelling(tensors):
    renamed = dict(tensors)
    for new, old in NEW_NAMES.items():
        renamed[POSITIONAL + old] = renamed.pop(POSITIONAL + new)
    return renamed


def with_head(tensors):
    prefixed = {f"wav2vec2.{name}": tensor for name, tensor in tensors.items()}
    return {**prefixed, "lm_head.weight": torch.zeros(5, 32), "lm_head.bias": torch.zeros(5)}


def with_training_parts(tensors):
    extra = ("quantizer.codevectors", "project_hid.weight", "project_q.bias", "masked_spec_embed")
    return {**{name: tensor for name, tensor in tensors.items() if name != "masked_spec_embed"}, **{name: torch.zeros(3) for name in extra}}


LAYOUTS = {
    "new weight norm": lambda tensors: tensors,
    "old weight norm": old_spelling,
    "prefix and head": with_head,
    "old weight norm, prefix and head": lambda tensors: with_head(old_spelling(tensors)),
    "parts for training": with_training_parts,
}


def write(folder, tensors, *, config=CONFIG, suffix=".safetensors"):
    path = folder / f"model{suffix}"
    if suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return path


def without(tensors, *names):
    assert set(names) <= set(tensors)
    return {name: tensor for name, tensor in tensors.items() if name not in names}


# Files that load


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bits(tmp_path, tensors, expected, noise, layout, suffix):
    model = load_wav2vec2(write(tmp_path, LAYOUTS[layout](tensors), suffix=suffix))
    hidden = hidden_states(model, noise(3200))
    assert hidden.shape == (25, 9, 32)
    assert torch.equal(hidden, expected)


def test_model_is_for_inference_in_float32(tmp_path, tensors):
    model = load_wav2vec2(write(tmp_path, {name: tensor.half() for name, tensor in tensors.items()}))
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_file_is_read_exactly(tmp_path, tensors, noise):
    half = {name: tensor.half() for name, tensor in tensors.items()}
    from_half = hidden_states(load_wav2vec2(write(tmp_path, half)), noise(3200))
    from_float = hidden_states(load_wav2vec2(write(tmp_path, {name: tensor.float() for name, tensor in half.items()})), noise(3200))
    assert torch.equal(from_half, from_float)


def test_positional_weight_norm_is_folded(tmp_path, tensors):
    model = load_wav2vec2(write(tmp_path, tensors))
    gain, direction = (tensors[POSITIONAL + name].double() for name in NEW_NAMES)
    weight = gain * direction / direction.square().sum(dim=(0, 1), keepdim=True).sqrt()
    torch.testing.assert_close(model.encoder.pos_conv_embed.conv.weight.double(), weight, atol=1e-6, rtol=1e-6)
    assert set(dict(model.encoder.pos_conv_embed.conv.named_parameters())) == {"weight", "bias"}


def test_folded_file_loads_too(tmp_path, tensors, expected, noise):
    folded = dict(load_wav2vec2(write(tmp_path, tensors)).state_dict())
    assert torch.equal(hidden_states(load_wav2vec2(write(tmp_path, folded)), noise(3200)), expected)


def test_single_file_without_configuration(tmp_path, randomised, noise):
    config = {**CONFIG, "hidden_size": 128, "num_attention_heads": 2, "num_conv_pos_embedding_groups": 16}
    model = make_model(config, randomised)
    loaded = load_wav2vec2(write(tmp_path, dict(model.state_dict()), config=None))
    waveform = noise(1600)
    torch.testing.assert_close(hidden_states(loaded, waveform), hidden_states(model, waveform), atol=1e-5, rtol=1e-5)
    assert loaded.config.num_attention_heads == 2


# Files that do not


@pytest.mark.parametrize(
    ("names", "description"),
    [
        (["model.encoder.conv1.weight"], "something else"),
        (["shared.weight"], "a T5 text encoder"),
        (["patch_embedding.weight", "head.modulation"], "a Wan text-to-video"),
    ],
)
def test_other_models_are_refused(tmp_path, names, description):
    path = write(tmp_path, {name: torch.zeros(2) for name in names})
    with pytest.raises(CheckpointError) as caught:
        load_wav2vec2(path)
    assert f"model.safetensors is not a wav2vec2 audio encoder: it looks like {description}" in str(caught.value)
    assert "models/audio_encoders" in str(caught.value)


@pytest.mark.parametrize("layers", [12, 23])
def test_other_depths_are_refused(tmp_path, tensors, layers):
    path = write(tmp_path, tensors, config={**CONFIG, "num_hidden_layers": layers})
    with pytest.raises(CheckpointError, match=f"has {layers} layers; Wan2.2-S2V needs 24"):
        load_wav2vec2(path)


@pytest.mark.parametrize("has_config", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.7.attention.k_proj.weight",
        "encoder.layers.0.feed_forward.intermediate_dense.weight",
        "encoder.layer_norm.weight",
        "feature_projection.projection.bias",
        POSITIONAL + "parametrizations.weight.original0",
        POSITIONAL + "parametrizations.weight.original1",
        POSITIONAL + "bias",
    ],
)
def test_missing_tensor_is_a_clear_error(tmp_path, tensors, name, has_config):
    path = write(tmp_path, without(tensors, name), config=CONFIG if has_config else None)
    with pytest.raises(CheckpointError, match=r"model.safetensors .*missing.*Download the (whole wav2vec2 folder|file) again"):
        load_wav2vec2(path)


def test_unexpected_tensor_is_named(tmp_path, tensors):
    with pytest.raises(CheckpointError, match=r"unexpected.*adapter\.weight"):
        load_wav2vec2(write(tmp_path, {**tensors, "adapter.weight": torch.zeros(2)}))


def test_configuration_of_another_model_is_a_clear_error(tmp_path, tensors):
    path = write(tmp_path, tensors, config={**CONFIG, "hidden_size": 64})
    with pytest.raises(CheckpointError, match=BESIDE + r": \d+ tensors of the wrong shape .*\. Download the whole .* without config\.json"):
        load_wav2vec2(path)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"hidden_size": "abc"}, "Field 'hidden_size' expected int, got str (value: 'abc')"),
        ({"hidden_size": None}, "Field 'hidden_size' expected int, got NoneType"),
        ({"conv_dim": 2}, "Field 'conv_dim' with value 2"),
        ({"conv_dim": []}, "Configuration for convolutional layers is incorrect"),
        ({"hidden_act": "foo"}, "'foo' is not known"),
        ({"intermediate_size": -1}, "negative dimension -1"),
        ({"num_conv_pos_embeddings": 0}, "cannot reshape tensor of 0 elements"),
        ({"num_attention_heads": 0}, "by zero"),
        ({"num_attention_heads": 3}, "embed_dim must be divisible by num_heads"),
        ({"feat_extract_norm": "x"}, "has to be one of"),
        ({"conv_stride": [None] * 7}, "Field 'conv_stride' with value [None"),
        ({"hidden_size": "x" * 1000}, "expected int, got str"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_configuration_that_cannot_be_built(tmp_path, tensors, setting, reason):
    path = write(tmp_path, tensors, config={**CONFIG, **setting})
    with pytest.raises(CheckpointError, match=BESIDE + r" \(.*\)\. Download the whole wav2vec2 folder again, or move") as caught:
        load_wav2vec2(path)
    message = str(caught.value)
    assert reason in message
    assert "Error" not in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("stride", [[0] * 7, [5, 2, 2, 2, 2, 2, 1], [10**9] * 7])
def test_configuration_that_listens_at_another_rate(tmp_path, tensors, stride):
    with pytest.raises(CheckpointError, match=BESIDE + r": its rows lie [\d.]+ samples apart instead of 320\. Download"):
        load_wav2vec2(write(tmp_path, tensors, config={**CONFIG, "conv_stride": stride}))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "<!DOCTYPE html>", "\xff"])
def test_configuration_that_is_no_json(tmp_path, tensors, text):
    path = write(tmp_path, tensors)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON\. Download the whole wav2vec2 folder again, or move"):
        load_wav2vec2(path)


def test_file_alone_is_not_said_to_have_a_configuration(tmp_path, tensors):
    path = write(tmp_path, {**tensors, "stranger.weight": torch.zeros(2)}, config=None)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not fit wav2vec2-large.*Download the file again") as caught:
        load_wav2vec2(path)
    assert "config" not in str(caught.value)


def test_interrupt_while_the_model_is_built(tmp_path, tensors, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.Wav2Vec2Model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_wav2vec2(write(tmp_path, tensors))


class Malicious:
    def __reduce__(self):
        return print, ("code was run",)


def test_pickled_code_is_not_run(tmp_path, capsys):
    path = tmp_path / "model.bin"
    torch.save({"weight": Malicious()}, path)
    with pytest.raises(CheckpointError, match=r"model\.bin is damaged or holds no weights"):
        load_wav2vec2(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\xff" * 200])
def test_damaged_file_is_a_clear_error(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model{suffix} is damaged or holds no weights \(.*Download the file again"):
        load_wav2vec2(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_truncated_file_is_a_clear_error(tmp_path, tensors, suffix):
    path = write(tmp_path, tensors, suffix=suffix)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"model\{suffix} is damaged"):
        load_wav2vec2(path)
