"""Prompt cleaning, prompt length, and which text encoder files are accepted."""

import logging

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.umt5 import infer_umt5_config, to_comfyui
from wan_s2v_pack.wan_s2v_model.conditioning.prompts import MAX_TOKENS, clean_prompt, encode_prompt

FILE = "umt5.safetensors"


# Cleaning


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A man sings.", "A man sings."),
        ("  A man\n\n sings.\t ", "A man sings."),
        ("\ufb01ne \ufb02ow, \u0149, \u0132", "fine flow, 'n, IJ"),
        ("a\x00b\x07c\ufeff", "abc"),
        ("a \x1b[1;31mred\x1b[0m rose", "a red rose"),
        ("A\u00a0man\u3000sings", "A man sings"),
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp;amp; Jerry", "Tom &amp; Jerry"),
        ("&lt;b&gt; &quot;x&quot; &#39;y&#39;", "<b> \"x\" 'y'"),
        ("“Hello”, she said, „so ‘it’ is‟", '"Hello", she said, "so \'it\' is"'),  # noqa: RUF001
        ("rock ʼn’ roll", "rock 'n' roll"),  # noqa: RUF001
        ("ＡＢＣ１２３！，（ｘ）", "ABC123!,(x)"),  # noqa: RUF001
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("cafe\u0301", "café"),
        ("画面模糊。", "画面模糊。"),
        ("(word:1.2) [x] {a|b}", "(word:1.2) [x] {a|b}"),
        ("x² ½ ™", "x² ½ ™"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_prompts_are_cleaned(text, cleaned):
    assert clean_prompt(text) == cleaned


def test_cleaning_twice_is_cleaning_once():
    text = " “Ａ &amp; Ｂ”\n ok "  # noqa: RUF001
    assert clean_prompt(clean_prompt(text)) == clean_prompt(text) == '"A & B" ok'


# Encoding


class Clip:
    """Stands for ComfyUI's CLIP: one token per word, one more at the end, in batches as ComfyUI makes them."""

    def __init__(self, batch_size=10_000):
        self.batch_size = batch_size
        self.texts, self.encoded = [], None

    def tokenize(self, text, **options):
        assert options == {"disable_weights": True}
        self.texts.append(text)
        tokens = [*((index, 1.0) for index, _ in enumerate(text.split(), start=10)), (1, 1.0)]
        return {"umt5xxl": [tokens[i : i + self.batch_size] for i in range(0, len(tokens), self.batch_size)]}

    def encode_from_tokens_scheduled(self, tokens):
        self.encoded = tokens["umt5xxl"]
        return [[torch.zeros(1, len(self.encoded[0]), 4), {}]]


def test_prompt_is_cleaned_before_it_is_encoded():
    clip = Clip()
    assert encode_prompt(clip, " a &amp;\n b ")[0][0].shape == (1, 4, 4)
    assert clip.texts == ["a & b"]


@pytest.mark.parametrize("num_words", [0, 5, 511])
def test_prompts_of_up_to_512_tokens_are_left_alone(num_words, caplog):
    clip = Clip()
    encode_prompt(clip, "word " * num_words)
    assert clip.encoded == [[*((10 + index, 1.0) for index in range(num_words)), (1, 1.0)]]
    assert not caplog.records


@pytest.mark.parametrize("batch_size", [10_000, 300, 512])
@pytest.mark.parametrize("num_words", [512, 1500])
def test_longer_prompts_keep_their_start_and_the_end_token(num_words, batch_size, caplog):
    clip = Clip(batch_size)
    with caplog.at_level(logging.WARNING, logger="wan_s2v"):
        encode_prompt(clip, "word " * num_words)
    (tokens,) = clip.encoded
    assert len(tokens) == MAX_TOKENS
    assert tokens[:511] == [(10 + index, 1.0) for index in range(511)]
    assert tokens[-1] == (1, 1.0)
    assert f"the prompt has {num_words + 1} tokens; only the first 512 are used" in caplog.text


# Files


def umt5_shapes(layers=2):
    shapes = {"shared.weight": (300, 64), "encoder.final_layer_norm.weight": (64,), "spiece_model": (1000,)}
    for layer in range(layers):
        attention, feed_forward = (f"encoder.block.{layer}.layer.{part}" for part in (0, 1))
        shapes |= {f"{attention}.SelfAttention.{part}.weight": (32, 64) for part in "qkv"}
        shapes[f"{attention}.SelfAttention.o.weight"] = (64, 32)
        shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (32, 4)
        shapes |= {f"{feed_forward}.DenseReluDense.{part}.weight": (96, 64) for part in ("wi_0", "wi_1")}
        shapes[f"{feed_forward}.DenseReluDense.wo.weight"] = (64, 96)
        shapes |= {f"{part}.layer_norm.weight": (64,) for part in (attention, feed_forward)}
    return shapes


@pytest.mark.parametrize("layers", [1, 2, 11])
def test_dimensions_are_read_from_the_shapes(layers):
    assert infer_umt5_config(umt5_shapes(layers), FILE) == {
        "d_model": 64,
        "vocab_size": 300,
        "d_ff": 96,
        "d_kv": 8,
        "num_heads": 4,
        "num_layers": layers,
    }


def test_quantisation_scales_are_allowed():
    shapes = {**umt5_shapes(), "encoder.block.0.layer.0.SelfAttention.q.weight_scale": (), "scaled_fp8": (0,)}
    assert infer_umt5_config(shapes, FILE)["num_layers"] == 2


@pytest.mark.parametrize("name", umt5_shapes(1))
def test_any_missing_tensor_is_a_clear_error(name):
    shapes = {key: shape for key, shape in umt5_shapes(2).items() if key != name}
    with pytest.raises(
        CheckpointError, match=rf"{FILE} (does not fit umT5|is incomplete): 1 tensors missing \({name}\).*Download the file again"
    ):
        infer_umt5_config(shapes, FILE)


def test_layer_without_its_own_position_bias_is_refused():
    shapes = umt5_shapes(2)
    del shapes["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"]
    with pytest.raises(CheckpointError, match=r"1 tensors missing \(encoder.block.1.layer.0.SelfAttention.relative_attention_bias"):
        infer_umt5_config(shapes, FILE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["head.modulation"], "is not a umT5 text encoder: it looks like a Wan text-to-video"),
        (["decoder.middle.0.residual.0.gamma"], "is not a umT5 text encoder: it looks like a Wan VAE"),
        (["text_model.embeddings.weight"], "is not a umT5 text encoder: it looks like something else"),
        ([], "is not a umT5 text encoder"),
    ],
)
def test_other_files_are_refused(names, message):
    with pytest.raises(CheckpointError) as caught:
        infer_umt5_config(dict.fromkeys(names, (1,)), FILE)
    assert FILE in str(caught.value)
    assert message in str(caught.value)
    assert "umt5_xxl_fp16.safetensors" in str(caught.value)


# The official file

OFFICIAL_PARTS = {
    "0.layer_norm": "norm1",
    "1.layer_norm": "norm2",
    "0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    **{f"0.SelfAttention.{part}": f"attn.{part}" for part in "qkvo"},
    "1.DenseReluDense.wi_0": "ffn.gate.0",
    "1.DenseReluDense.wi_1": "ffn.fc1",
    "1.DenseReluDense.wo": "ffn.fc2",
}


def official_state_dict(shapes):
    """The tensors of ComfyUI's layout under the names of the official file, which has no tokenizer."""
    names = {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}
    for name in shapes:
        if name.startswith("encoder.block."):
            _, _, block, _, part = name.removesuffix(".weight").split(".", 4)
            names[name] = f"blocks.{block}.{OFFICIAL_PARTS[part]}.weight"
    return {official: torch.full(shapes[name], float(index)) for index, (name, official) in enumerate(names.items())}, names


def test_official_names_become_comfyuis(tmp_path):
    shapes = umt5_shapes()
    official, names = official_state_dict(shapes)
    (tmp_path / "google" / "umt5-xxl").mkdir(parents=True)
    (tmp_path / "google" / "umt5-xxl" / "spiece.model").write_bytes(b"pieces")
    renamed = to_comfyui(official, tmp_path / "models_t5.pth")
    assert bytes(renamed.pop("spiece_model")) == b"pieces"
    assert renamed.keys() == shapes.keys() - {"spiece_model"}
    assert all(renamed[name] is official[names[name]] for name in renamed)


def test_official_file_without_its_tokenizer_is_refused(tmp_path):
    official, _ = official_state_dict(umt5_shapes())
    with pytest.raises(CheckpointError, match=r"needs its tokenizer: put spiece\.model of google/umt5-xxl beside it"):
        to_comfyui(official, tmp_path / "models_t5.pth")


def test_comfyuis_file_passes_unchanged(tmp_path):
    tensors = {name: torch.empty(shape) for name, shape in umt5_shapes().items()}
    assert to_comfyui(tensors, tmp_path / "umt5.safetensors") == tensors


@pytest.mark.parametrize("place", ["spiece.model", "google/umt5-xxl/spiece.model", "tokenizer/spiece.model", "../tokenizer/spiece.model"])
def test_names_of_transformers_take_the_tokenizer_beside_them(tmp_path, place):
    """Before, such a file was "incomplete: 1 tensors missing (spiece_model)" wherever its tokenizer was."""
    (tmp_path / "encoder").mkdir()
    tokenizer = tmp_path / "encoder" / place
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_bytes(b"pieces")
    tensors = {name: torch.empty(shape) for name, shape in umt5_shapes().items() if name != "spiece_model"}
    found = to_comfyui(tensors, tmp_path / "encoder" / "model.safetensors")
    assert bytes(found.pop("spiece_model")) == b"pieces"
    assert found == tensors


def test_names_of_transformers_without_a_tokenizer_say_what_is_missing(tmp_path):
    tensors = {name: torch.empty(shape) for name, shape in umt5_shapes().items() if name != "spiece_model"}
    with pytest.raises(CheckpointError, match=r"model\.safetensors needs its tokenizer: put spiece\.model of google/umt5-xxl beside it"):
        to_comfyui(tensors, tmp_path / "model.safetensors")


def test_the_half_that_writes_is_left_out(tmp_path):
    tensors = {name: torch.empty(shape) for name, shape in umt5_shapes().items()}
    other_half = {"decoder.block.0.layer.0.SelfAttention.q.weight": torch.empty(2), "lm_head.weight": torch.empty(2)}
    assert to_comfyui({**tensors, **other_half}, tmp_path / "umt5.safetensors").keys() == tensors.keys()


def test_scales_of_the_official_names_are_renamed_too(tmp_path):
    official, names = official_state_dict(umt5_shapes())
    layer = "encoder.block.1.layer.1.DenseReluDense.wo"
    scale = names[f"{layer}.weight"].replace(".weight", ".weight_scale")
    (tmp_path / "spiece.model").write_bytes(b"pieces")
    assert to_comfyui({**official, scale: torch.ones(())}, tmp_path / "umt5.safetensors")[f"{layer}.weight_scale"] == 1
