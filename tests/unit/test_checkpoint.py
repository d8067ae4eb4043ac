"""Which files are accepted, and what is said about the others."""

import json
from dataclasses import replace

import pytest
from wan_s2v_pack.wan_s2v_model import checkpoint
from wan_s2v_pack.wan_s2v_model.checkpoint import CheckpointError, check_shapes, expected_shapes, infer_config, key_prefix, require_s2v
from wan_s2v_pack.wan_s2v_model.config import S2V_14B, WanS2VConfig

TINY = WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))
FILE = "some_model.safetensors"


def metadata_of(config):
    return {"config": json.dumps({"transformer": config.to_metadata()}), "format": "pt"}


def inspect(shapes, metadata=None):
    """What a loader does with a file."""
    require_s2v(list(shapes), FILE)
    config = infer_config(shapes, metadata)
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


@pytest.mark.parametrize("suffix", checkpoint.QUANTISATION_SUFFIXES)
def test_quantisation_scales_are_allowed(suffix):
    shapes = expected_shapes(TINY)
    scales = {name.removesuffix(".weight") + suffix: () for name in shapes if name.endswith("ffn.0.weight")}
    assert inspect({**shapes, **scales, "scaled_fp8": (0,)}, metadata_of(TINY)) == TINY


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", ""])
def test_prefix_of_all_in_one_files(prefix):
    names = [prefix + name for name in expected_shapes(TINY)]
    assert key_prefix(names) == prefix


def test_foreign_tensors_have_no_prefix():
    assert key_prefix(["model.diffusion_model.input_blocks.0.weight"]) == ""


# Other models

OTHER_FILES = {
    "vace": (["vace_patch_embedding.weight", "head.modulation"], "a Wan VACE model"),
    "animate": (["face_adapter.fuser_blocks.0.k_norm.weight", "img_emb.proj.0.bias", "head.modulation"], "a Wan2.2-Animate model"),
    "humo": (["audio_proj.audio_proj_glob_1.layer.bias", "head.modulation"], "a HuMo model"),
    "i2v": (["img_emb.proj.0.bias", "head.modulation"], "a Wan image-to-video model"),
    "t2v": (["patch_embedding.weight", "head.modulation"], "without the S2V audio layers"),
    "prefixed t2v": (["model.diffusion_model.head.modulation"], "without the S2V audio layers"),
    "vae": (["decoder.middle.0.residual.0.gamma"], "a Wan VAE; pick it in the VAE loader"),
    "t5": (["shared.weight"], "a T5 text encoder; pick it in the text encoder loader"),
    "official umT5": (["token_embedding.weight"], "the official umT5 text encoder"),
    "wav2vec2": (["feature_extractor.conv_layers.0.conv.weight"], "a wav2vec2 audio encoder; pick it in the audio encoder loader"),
    "wav2vec2 with head": (["wav2vec2.feature_extractor.conv_layers.0.conv.weight", "lm_head.weight"], "a wav2vec2 audio encoder"),
    "LoRA": (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA; load the base model here"),
    "LoRA of S2V": (["blocks.0.self_attn.q.lora_up.weight", "head.modulation"], "a LoRA"),
    "LoRA with alpha": (["lora_unet_blocks_0_cross_attn_k.alpha"], "a LoRA"),
    "unknown": (["conv_in.weight", "conv_out.weight"], "something else (2 tensors)"),
    "empty": ([], "something else (0 tensors)"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_models_are_refused_by_name(kind):
    names, description = OTHER_FILES[kind]
    with pytest.raises(CheckpointError) as caught:
        require_s2v(names, FILE)
    message = str(caught.value)
    assert message.startswith(f"{FILE} is not a Wan2.2-S2V transformer: it looks like ")
    assert description in message
    assert "Pick a Wan2.2-S2V-14B file" in message
    assert "models/diffusion_models" in message


@pytest.mark.parametrize("key", checkpoint.S2V_KEYS)
def test_each_s2v_key_is_required(key):
    with pytest.raises(CheckpointError, match=r"not a Wan2\.2-S2V transformer"):
        require_s2v([name for name in expected_shapes(TINY) if name != key], FILE)


# Damaged files


@pytest.mark.parametrize("name", expected_shapes(WanS2VConfig(128, 128, 1, 8, 8, (0,))))
def test_any_missing_tensor_is_a_clear_error(name):
    config = WanS2VConfig(dim=128, ffn_dim=128, num_layers=1, text_dim=8, audio_dim=8, audio_inject_layers=(0,))
    shapes = {key: shape for key, shape in expected_shapes(config).items() if key != name}
    with pytest.raises(CheckpointError, match=r"missing|not a Wan2.2-S2V transformer|audio injectors"):
        inspect(shapes, metadata_of(config))


def test_missing_tensors_are_counted_and_named():
    shapes = {name: shape for name, shape in expected_shapes(TINY).items() if not name.startswith("blocks.1.self_attn.")}
    with pytest.raises(CheckpointError) as caught:
        inspect(shapes, metadata_of(TINY))
    assert str(caught.value) == (
        f"{FILE} does not fit Wan2.2-S2V: 10 tensors missing (blocks.1.self_attn.k.bias, blocks.1.self_attn.k.weight, "
        "blocks.1.self_attn.norm_k.weight, ...). Download the file again or pick another one."
    )


def test_unexpected_tensors_are_named():
    with pytest.raises(CheckpointError, match=r"1 tensors unexpected \(motioner.weight\)"):
        inspect({**expected_shapes(TINY), "motioner.weight": (4, 4)}, metadata_of(TINY))


def test_wrong_shapes_are_named_with_both_shapes():
    with pytest.raises(CheckpointError, match=r"1 tensors of the wrong shape \(text_embedding.2.weight \(9, 256\) instead of \(256, 256"):
        inspect({**expected_shapes(TINY), "text_embedding.2.weight": (9, 256)}, metadata_of(TINY))


def test_all_problems_are_in_one_message():
    shapes = {**expected_shapes(TINY), "extra.weight": (1,), "head.head.bias": (7,)}
    del shapes["text_embedding.2.bias"]
    with pytest.raises(CheckpointError, match=r"missing \(text_embedding.2.bias\); .*unexpected \(extra.weight\); .*head.head.bias \(7,\)"):
        inspect(shapes, metadata_of(TINY))


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


@pytest.mark.parametrize("text", ["no JSON", "[]", '"x"', '{"transformer": []}'])
def test_unreadable_metadata_counts_as_none(text):
    assert infer_config(expected_shapes(S2V_14B), {"config": text}) == S2V_14B


def test_width_that_is_no_multiple_of_a_head():
    config = WanS2VConfig(dim=200, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))
    with pytest.raises(CheckpointError, match="width 200 is not a multiple of 128"):
        infer_config(expected_shapes(config), metadata_of(config))


def test_more_than_a_few_names_are_cut():
    with pytest.raises(CheckpointError, match=r"4 tensors unexpected \(a0, a1, a2, \.\.\.\)"):
        check_shapes({**expected_shapes(TINY), **{f"a{i}": (1,) for i in range(4)}}, TINY, FILE)
