"""Our names and shapes are those of the published files: the fingerprints that another program made from the real ones are the same.

The VAE, whose names are ComfyUI's, is in tests/integration/test_published_files.py with the files at full size.
"""

import hashlib
import json

import pytest
import torch
from wan_s2v_pack.tests import published_files
from wan_s2v_pack.tests.published_files import FINGERPRINTS, UMT5_XXL, VOCABULARY, WAV2VEC2_LARGE, fingerprint
from wan_s2v_pack.wan_s2v_model.checkpoints.identify import S2V, UMT5, WAV2VEC2, identify, unwrap
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import check_shapes, infer_config
from wan_s2v_pack.wan_s2v_model.checkpoints.shapes import compare_shapes
from wan_s2v_pack.wan_s2v_model.checkpoints.umt5 import infer_umt5_config, to_comfyui
from wan_s2v_pack.wan_s2v_model.checkpoints.wav2vec2 import clean_state_dict, read_config
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B


def empty(shapes):
    """Tensors without memory."""
    return {name: torch.empty(tuple(shape), device="meta") for name, shape in shapes.items()}


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_fingerprint_takes_every_name_and_every_shape():
    assert fingerprint({"b": (2, 3), "a": ()}) == hashlib.md5(b"a,a:,b,b:2_3").hexdigest()
    prints = {fingerprint(shapes) for shapes in ({"a": (2, 3)}, {"a": (3, 2)}, {"b": (2, 3)}, {"a": (2, 3), "b": (1,)})}
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("S2V transformer", published_files.transformer),
        ("official umT5-XXL encoder", published_files.official_text_encoder),
        ("wav2vec2-large-xlsr-53-english", published_files.audio_encoder),
    ],
)
def test_names_and_shapes_are_those_of_the_published_file(name, shapes):
    assert (fingerprint(shapes()), len(shapes())) == FINGERPRINTS[name]


def test_transformer_is_the_model_that_we_build():
    shapes = published_files.transformer()
    assert identify(shapes) is S2V
    assert unwrap(shapes, "file") == shapes
    assert infer_config(shapes) == S2V_14B
    check_shapes(shapes, S2V_14B, "file")


def test_text_encoder_is_the_model_that_comfyui_builds(tmp_path):
    official = empty(published_files.official_text_encoder())
    assert identify(shapes_of(official)) is UMT5
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<pad>")
    tensors = to_comfyui(unwrap(official, "file"), tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    assert shapes_of(tensors).items() >= published_files.text_encoder().items()
    dimensions = {name: UMT5_XXL[name] for name in ("d_model", "d_kv", "d_ff", "num_heads", "num_layers")}
    assert infer_umt5_config(shapes_of(tensors), "file") == {**dimensions, "vocab_size": VOCABULARY}


@pytest.mark.parametrize("has_config", [True, False])
def test_audio_encoder_is_the_model_that_transformers_builds(tmp_path, has_config):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    if has_config:
        (tmp_path / "config.json").write_text(json.dumps(WAV2VEC2_LARGE))
    file = empty(published_files.audio_encoder())
    assert identify(shapes_of(file)) is WAV2VEC2
    tensors = clean_state_dict(unwrap(file, "file"))
    with torch.device("meta"):
        model = Wav2Vec2Model(Wav2Vec2Config(**read_config(tmp_path / "model.safetensors", tensors)))
    torch.nn.utils.parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    model.masked_spec_embed = None
    assert compare_shapes(shapes_of(tensors), shapes_of(model.state_dict())) == ""
