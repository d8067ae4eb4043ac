"""Which files are accepted, and what is said about the others."""

import json
from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.identify import S2V, S2V_KEYS, require
from wan_s2v_pack.wan_s2v_model.checkpoints.quantisation import QUANTISATION_SUFFIXES
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import DIMENSION_RANKS, check_shapes, expected_shapes, infer_config
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B, WanS2VConfig

TINY = WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))
FILE = "some_model.safetensors"


def metadata_of(config):
    return {"config": json.dumps({"transformer": config.to_metadata()}), "format": "pt"}


def inspect(shapes, metadata=None):
    """What a loader does with a file."""
    require(S2V, shapes, FILE)
    config = infer_config(shapes, metadata, file_name=FILE)
    check_shapes(shapes, config, FILE)
    return config


# Files that fit


def test_expected_tensors_of_the_14b_model():
    shapes = expected_shapes(S2V_14B)
    assert len(shapes) == 1260
    assert shapes["blocks.39.ffn.0.weight"] == (13_824, 5120)
    assert shapes["casual_audio_encoder.encoder.conv1_global.conv.weight"] == (1280, 1024, 3)
    assert shapes["frame_packer.proj_4x.weight"] == (5120, 16, 4, 8, 8)
    assert shapes["audio_injector.injector_adain_layers.11.linear.weight"] == (10_240, 5120)
    assert shapes["head.head.weight"] == (64, 5120)


def test_14b_model_needs_no_metadata():
    assert inspect(expected_shapes(S2V_14B)) == S2V_14B


@pytest.mark.parametrize("inject_layers", [(0, 2, 3), (1,), (0, 1, 2, 3)])
def test_configuration_survives_shapes_and_metadata(inject_layers):
    config = WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=inject_layers)
    assert inspect(expected_shapes(config), metadata_of(config)) == config


def test_number_of_audio_layers_is_read_from_the_shapes():
    config = replace(TINY, num_audio_layers=13)
    assert inspect(expected_shapes(config), metadata_of(config)) == config


def test_injected_blocks_may_be_known_already():
    assert infer_config(expected_shapes(TINY), inject_layers=(0, 2, 3)) == TINY


def test_injected_blocks_of_the_model_win_over_metadata():
    other = WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 1, 2))
    assert infer_config(expected_shapes(TINY), metadata_of(other), inject_layers=(0, 2, 3)) == TINY


@pytest.mark.parametrize("suffix", QUANTISATION_SUFFIXES)
def test_quantisation_scales_are_allowed(suffix):
    shapes = expected_shapes(TINY)
    scales = {name.removesuffix(".weight") + suffix: () for name in shapes if name.endswith("ffn.0.weight")}
    assert inspect({**shapes, **scales, "scaled_fp8": (0,)}, metadata_of(TINY)) == TINY


# Damaged files


@pytest.mark.parametrize("key", S2V_KEYS)
def test_each_s2v_key_is_required(key):
    shapes = {name: shape for name, shape in expected_shapes(TINY).items() if name != key}
    with pytest.raises(CheckpointError, match=rf"{FILE} does not fit Wan2.2-S2V: 1 tensors missing \({key}\)"):
        inspect(shapes, metadata_of(TINY))


@pytest.mark.parametrize("key", DIMENSION_RANKS)
@pytest.mark.parametrize("shape", [(), (256,), (0, 0), (3,) * 7])
def test_tensors_that_tell_the_architecture_have_a_shape_to_read(key, shape):
    with pytest.raises(CheckpointError, match=rf"{FILE} is incomplete: 1 tensors of the wrong shape \({key}.*Download the file again"):
        inspect({**expected_shapes(TINY), key: shape}, metadata_of(TINY))


@pytest.mark.parametrize("name", expected_shapes(WanS2VConfig(128, 128, 1, 8, 8, (0,))))
def test_any_missing_tensor_is_a_clear_error(name):
    config = WanS2VConfig(dim=128, ffn_dim=128, num_layers=1, text_dim=8, audio_dim=8, audio_inject_layers=(0,))
    shapes = {key: shape for key, shape in expected_shapes(config).items() if key != name}
    with pytest.raises(CheckpointError, match=rf"{FILE} .*(missing|audio injectors)"):
        inspect(shapes, metadata_of(config))


@pytest.mark.parametrize(
    ("metadata", "layers"),
    [
        (None, S2V_14B.audio_inject_layers),
        ({}, S2V_14B.audio_inject_layers),
        ({"config": json.dumps({"transformer": {}})}, S2V_14B.audio_inject_layers),
        ({"config": json.dumps({"transformer": {"audio_inject_layers": [0, 2]}})}, (0, 2)),
        ({"config": json.dumps({"transformer": {"audio_inject_layers": [0, 2, 4]}})}, (0, 2, 4)),
    ],
)
def test_injected_blocks_that_do_not_fit_the_file(metadata, layers):
    with pytest.raises(CheckpointError) as caught:
        infer_config(expected_shapes(TINY), metadata)
    for part in ("4 blocks and 3 audio injectors", f"the injected blocks {layers}", "config.transformer.audio_inject_layers"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '"x"',
        '{"transformer": []}',
        '{"transformer": {"audio_inject_layers": "all"}}',
        '{"transformer": {"audio_inject_layers": [null]}}',
        '{"transformer": {"audio_inject_layers": 4}}',
    ],
)
def test_unreadable_metadata_counts_as_none(text):
    assert infer_config(expected_shapes(S2V_14B), {"config": text}) == S2V_14B


def test_width_that_is_no_multiple_of_a_head():
    config = WanS2VConfig(dim=200, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))
    with pytest.raises(CheckpointError, match="width 200 is not a multiple of 128"):
        infer_config(expected_shapes(config), metadata_of(config))
