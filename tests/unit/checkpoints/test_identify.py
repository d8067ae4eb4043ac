"""What files are called that lie in the wrong loader."""

import ast
from pathlib import Path

import pytest
from wan_s2v_pack.tests.foreign_files import FOREIGN_FILES, S2V_TINY, official_umt5, prefixed, t5, wav2vec2
from wan_s2v_pack.tests.foreign_files import wan_vae as tiny_vae
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.identify import KINDS, S2V, S2V_KEYS, UMT5, WAN_VAE, WAV2VEC2, Kind, identify, require, unwrap
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes

NODES = Path(__file__).resolve().parents[3] / "nodes"
OWN_KINDS = {"model": S2V, "text encoder": UMT5, "audio encoder": WAV2VEC2, "vae": WAN_VAE}


def words_of(shapes):
    found = identify(shapes)
    return found.words if isinstance(found, Kind) else found


def display_names():
    calls = (
        item for path in NODES.glob("*.py") for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(item, ast.Call)
    )
    schemas = [call for call in calls if ast.unparse(call.func) == "io.Schema"]
    return {keyword.value.value for call in schemas for keyword in call.keywords if keyword.arg == "display_name"}


@pytest.mark.parametrize("file_name", FOREIGN_FILES)
def test_file_is_called_what_it_is(file_name):
    shapes, words = FOREIGN_FILES[file_name]
    assert words_of(shapes) == words


@pytest.mark.parametrize("loader", OWN_KINDS)
@pytest.mark.parametrize("file_name", FOREIGN_FILES)
def test_every_loader_takes_its_own_kind_and_refuses_the_others(loader, file_name):
    kind = OWN_KINDS[loader]
    shapes, words = FOREIGN_FILES[file_name]
    if words == kind.words:
        require(kind, shapes, file_name)
        return
    with pytest.raises(CheckpointError) as caught:
        require(kind, shapes, file_name)
    assert str(caught.value) == f"{file_name} {kind.refusal} {words}. {kind.advice}"


def test_every_entry_is_met_by_one_of_the_files():
    met = {words_of(shapes) for shapes, _ in FOREIGN_FILES.values()}
    entries = {kind.words if isinstance(kind, Kind) else kind for kind, _ in KINDS}
    assert entries - met == {"a T5 text encoder, not umT5"}  # what a file with little of T5 is called


PREFIXES = (
    *(
        "model.",
        "net.",
        "transformer.",
        "module.",
        "dit.",
        "vae.",
        "ema.",
        "ema_model.",
        "text_encoder.",
        "wav2vec2.",
        "first_stage_model.",
    ),
    *("_orig_mod.", "model.diffusion_model.", "model.model.", "module._orig_mod.", "pipe.dit.", "state_dict.model.net.", "a.b.c.d."),
)
MODELS = {
    "S2V": (S2V, expected_shapes(S2V_TINY)),
    "umT5": (UMT5, {**t5(2, own_bias=True), "spiece_model": (50,)}),
    "official umT5": (UMT5, official_umt5()),
    "wav2vec2": (WAV2VEC2, wav2vec2()),
    "VAE": (WAN_VAE, tiny_vae()),
}
TABLES = (
    "pos_freqs",
    "rope.cos_cached",
    "log_sigmas",
    "sigma_data",
    "latents_mean",
    "blocks.0.ffn.0._extra_state",
    "freqs",
    "freqs_cis",
    "model_sampling.sigmas",
    "rope.freqs",
    "blocks.0.attn.rotary_emb.inv_freq",
    "position_ids",
    "logit_scale",
)
TABLES += (
    "alphas_cumprod",
    "model_ema.decay",
    "model_ema.num_updates",
    "global_step",
    "encoder.num_batches_tracked",
    "scheduler.timesteps",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("model", MODELS)
def test_words_in_front_of_the_names_are_taken_off(model, prefix):
    """Before, only `diffusion_model.`, `model.diffusion_model.` and `wav2vec2.` were, and not for every loader."""
    kind, shapes = MODELS[model]
    assert identify(prefixed(prefix, shapes)) is kind
    assert unwrap(prefixed(prefix, shapes), "file") == shapes


@pytest.mark.parametrize("prefix", ["", "net.", "model.diffusion_model."])
@pytest.mark.parametrize("model", MODELS)
def test_tables_beside_the_weights_are_left_out(model, prefix):
    """Before: "13 tensors unexpected"."""
    kind, shapes = MODELS[model]
    everywhere = {**prefixed(prefix, shapes), **dict.fromkeys(TABLES, (3,)), **dict.fromkeys((prefix + name for name in TABLES), (3,))}
    assert identify(everywhere) is kind
    assert unwrap(everywhere, "file") == shapes


def test_tables_are_named_in_the_log(caplog):
    caplog.set_level("INFO", logger="wan_s2v")
    unwrap({**MODELS["S2V"][1], "freqs": (3,), "model_sampling.sigmas": (3,)}, "file")
    assert caplog.messages == ["file: 2 tensors are no weights and not used (freqs, model_sampling.sigmas)"]


@pytest.mark.parametrize("model", MODELS)
def test_no_weight_is_taken_for_a_table(model):
    _, shapes = MODELS[model]
    assert list(unwrap(shapes, "file")) == list(shapes)


def test_other_tensors_beside_the_model_are_kept():
    names = ("stranger.weight", "lm_head.bias", "blocks.0.gate", "encoder.step_embedding.weight")
    assert unwrap({**prefixed("net.", MODELS["S2V"][1]), **dict.fromkeys(names, (1,))}, "file").keys() >= set(names)


def test_what_training_puts_into_the_names_is_taken_out():
    shapes = MODELS["S2V"][1]
    wrapped = {f"_orig_mod.{name.replace('blocks.1.', 'blocks.1._fsdp_wrapped_module.')}": shape for name, shape in shapes.items()}
    assert identify(wrapped) is S2V
    assert unwrap(wrapped, "file") == shapes


@pytest.mark.parametrize("model", MODELS)
def test_two_copies_are_refused(model):
    kind, shapes = MODELS[model]
    found = identify({**prefixed("model.", shapes), **prefixed("ema.", shapes)})
    assert str(found).startswith(f"a file from training, with {kind.words.partition(';')[0]} twice (")


def test_same_name_twice_is_refused():
    shapes = prefixed("model.", MODELS["S2V"][1])
    with pytest.raises(CheckpointError, match=r"file holds some tensors twice, with and without words in front \(head\.modulation\)"):
        unwrap({**shapes, "head.modulation": (1, 2, 5)}, "file")


@pytest.mark.parametrize("part", ["vae.", "text_encoders.umt5xxl.transformer."])
def test_whole_checkpoint_is_called_so_whatever_is_most_of_it(part):
    shapes = {**prefixed("model.diffusion_model.", MODELS["S2V"][1]), **prefixed(part, {f"{index}.weight": (1,) for index in range(999)})}
    assert identify(shapes) == (
        "a whole checkpoint (a Wan2.2-S2V transformer together with VAE or text encoder); pick it in Load Checkpoint"
    )


@pytest.mark.parametrize("key", S2V_KEYS)
@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_s2v_with_a_missing_tensor_is_still_s2v(key, prefix):
    shapes = {name: shape for name, shape in expected_shapes(S2V_TINY).items() if name != key}
    assert identify(prefixed(prefix, shapes)) is S2V


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (UMT5, ("token_embedding.weight", "blocks.0.attn.q.weight", "blocks.0.pos_embedding.embedding.weight")),
        (WAV2VEC2, ("feature_extractor.conv_layers.0.conv.weight", "feature_projection.projection.weight")),
    ],
)
def test_encoder_with_a_missing_tensor_is_still_one(kind, keys):
    for missing in keys:
        assert identify({key: (1,) for key in keys if key != missing}) is kind


def test_one_of_several_files_is_called_so():
    with pytest.raises(CheckpointError, match=r"text-to-video model\. It is one part of a model in several files\. Pick a Wan2\.2-S2V"):
        require(S2V, {"head.modulation": (1, 2, 5), "patch_embedding.weight": (5, 16, 1, 2, 2)}, "model-00001-of-00004.safetensors")


def test_loaders_are_called_as_on_the_canvas():
    named = {kind.words.partition("pick it in ")[2] for kind in OWN_KINDS.values()} | {"Load LoRA (Wan S2V)"}
    assert named <= display_names()


@pytest.mark.parametrize("loader", OWN_KINDS)
def test_advice_names_a_file_and_its_folder(loader):
    advice = OWN_KINDS[loader].advice
    assert advice.startswith("Pick ")
    assert f"models/{ {'model': 'diffusion_models', 'vae': 'vae'}.get(loader, loader.replace(' ', '_') + 's') }." in advice
