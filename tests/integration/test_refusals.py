"""A wrong, damaged or foreign file in one of the four loaders: the message names the file, says what it is, and what to pick instead."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.cli.comfyui.client import PromptFailed
from wan_s2v_pack.tests.damaged_files import DAMAGED_FILES, LFS_POINTER, WEB_PAGE, pytorch, write
from wan_s2v_pack.tests.foreign_files import FOREIGN_FILES, wav2vec2
from wan_s2v_pack.tests.golden.comfyui import comfy_bridge, pack_module

from .graphs import TINY_FILES, find, inputs_of, quick_start

MODEL, TEXT, AUDIO, VAE = "WanS2VModelLoader", "WanS2VTextEncoderLoader", "WanS2VAudioEncoderLoader", "WanS2VVAELoader"
LOADERS: dict[str, Callable[[Path], object]] = {
    MODEL: lambda path: comfy_bridge().load_diffusion_model(
        str(path), {"weight_dtype": "default", "precision": "fast", "attention": "auto"}
    ),
    TEXT: lambda path: comfy_bridge().load_text_encoder(str(path)),
    AUDIO: lambda path: comfy_bridge().AudioEncoder(str(path), "fp32"),
    VAE: lambda path: comfy_bridge().load_vae(str(path), "fp32"),
}
TAKES = {  # loader: what it takes in the words of the other loaders, what it says of the others, what it recommends
    MODEL: ("a Wan2.2-S2V transformer;", "is not a Wan2.2-S2V transformer: it looks like ", "wan2.2_s2v_14B_bf16.safetensors"),
    TEXT: ("the umT5 text encoder;", "is not a umT5 text encoder: it looks like ", "umt5_xxl_fp16.safetensors"),
    AUDIO: ("a wav2vec2 audio encoder;", "is not a wav2vec2 audio encoder: it looks like ", "wav2vec2-large-xlsr-53-english"),
    VAE: ("a Wan VAE;", "is not the Wan2.1 VAE: it looks like ", "wan_2.1_vae.safetensors"),
}
GOOD_FILES = {
    MODEL: f"diffusion_models/{TINY_FILES['wan2.2_s2v_14B_bf16.safetensors']}",
    TEXT: f"text_encoders/{TINY_FILES['umt5_xxl_fp16.safetensors']}",
    AUDIO: f"audio_encoders/{TINY_FILES['wav2vec2_large_english_fp16.safetensors']}",
    VAE: f"vae/{TINY_FILES['wan_2.1_vae.safetensors']}",
}
WRONG = [(loader, name) for loader in LOADERS for name, (_, words) in FOREIGN_FILES.items() if not words.startswith(TAKES[loader][0])]
INTERNALS = re.compile(r"Error|Exception|Traceback|<class|object at|tensor\(|Path\(|\\x|weights_only|\x1b|\n")


@pytest.fixture
def models(base_directory) -> Path:
    return base_directory / "models"


def refusal(loader: str, path: Path) -> str:
    """The message with which a loader refuses a file."""
    with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
        LOADERS[loader](path)
    message = str(caught.value)
    assert type(caught.value) is pack_module("wan_s2v_model.checkpoints.file_format").CheckpointError, repr(caught.value)
    assert not INTERNALS.search(message), message
    return message


def copy_of(good: Path, folder: Path) -> Path:
    """A good file under a name of its own, with what lies beside it."""
    if (good.parent / "config.json").is_file():
        shutil.copy(good.parent / "config.json", folder)
    return Path(shutil.copy(good, folder / "copy.safetensors"))


# --- files of other models


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(("loader", "name"), WRONG)
def test_file_of_another_model(loader, name, suffix, tmp_path):
    shapes, words = FOREIGN_FILES[name]
    tensors = {key: torch.zeros(tuple(shape)) for key, shape in shapes.items()}
    path = tmp_path / (name + suffix)
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    message = refusal(loader, path)
    assert message.startswith(f"{path.name} {TAKES[loader][1]}{words}. Pick ")
    assert TAKES[loader][2] in message


def test_base_size_of_wav2vec2(tmp_path):
    path = tmp_path / "wav2vec2-base-960h.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in wav2vec2(num_layers=12).items()}, path)
    message = refusal(AUDIO, path)
    assert message == "wav2vec2-base-960h.safetensors has 12 layers; Wan2.2-S2V needs 24. Use wav2vec2-large-xlsr-53-english."


# --- files that are no weights, or half of them


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", DAMAGED_FILES)
def test_damaged_file(loader, name, tmp_path, capsys):
    _, words, advice = DAMAGED_FILES[name]
    message = refusal(loader, write(tmp_path, name))
    assert message.startswith(f"{name} is damaged or holds no weights ({words}")
    assert advice in message
    assert "a pickled program was run" not in capsys.readouterr().out


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("contents", [[1], 3, "text", None, torch.zeros(2), {"model": {"a": 1}}], ids=str)
def test_pickle_of_something_else(loader, contents, tmp_path):
    path = tmp_path / "strange.pth"
    path.write_bytes(pytorch(contents))
    assert re.match(r"strange\.pth is damaged or holds no weights \(.+\)\. (Pick|Download) the ", refusal(loader, path))


@pytest.mark.parametrize("loader", LOADERS)
def test_file_that_is_a_folder(loader, tmp_path):
    path = tmp_path / "folder.safetensors"
    path.mkdir()
    words = "is damaged or holds no weights (it is a folder, a pipe or a device). Pick a file."
    assert refusal(loader, path) == f"folder.safetensors {words}"


@pytest.mark.parametrize("part", [0.001, 0.3, 0.999])
@pytest.mark.parametrize("loader", LOADERS)
def test_download_that_was_cut_off(loader, part, models, tmp_path):
    path = copy_of(models / GOOD_FILES[loader], tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert re.match(
        r"copy\.safetensors is damaged or holds no weights \(it is cut off.+\)\. Download the file again\.", refusal(loader, path)
    )


# --- the right model, but not whole


def first(tensors, *ndim):
    names = sorted(name for name, tensor in tensors.items() if tensor.is_floating_point() and not name.startswith("lm_head."))
    return next(name for name in names if tensors[name].ndim in ndim)


def without_one(tensors):
    name = first(tensors, 1)
    return {key: tensor for key, tensor in tensors.items() if key != name}, f"1 tensors missing ({name.removeprefix('wav2vec2.')}"


def with_another(tensors):
    return {**tensors, "stranger.weight": torch.zeros(2)}, "1 tensors unexpected (stranger.weight)"


def with_a_longer_one(tensors):
    name = first(tensors, 1)
    return {**tensors, name: torch.zeros(len(tensors[name]) + 3)}, f"1 tensors of the wrong shape ({name.removeprefix('wav2vec2.')}"


def with_a_flat_one(tensors):
    name = first(tensors, 2, 3, 4, 5)
    return {**tensors, name: torch.zeros(5)}, name.removeprefix("wav2vec2.")


@pytest.mark.parametrize("change", [without_one, with_another, with_a_longer_one, with_a_flat_one])
@pytest.mark.parametrize("loader", LOADERS)
def test_tensors_that_do_not_fit(loader, change, models, tmp_path):
    good = models / GOOD_FILES[loader]
    path = copy_of(good, tmp_path)
    tensors, problem = change(load_file(good))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata_of(good))
    message = refusal(loader, path)
    assert re.match(r"copy\.safetensors (does not fit|is incomplete)", message), message
    assert problem in message
    assert re.search(r"Download the (file|whole wav2vec2 folder) again", message)


def metadata_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")


@pytest.mark.parametrize("loader", LOADERS)
def test_good_copy_loads(loader, models, tmp_path):
    assert LOADERS[loader](copy_of(models / GOOD_FILES[loader], tmp_path))


def test_weight_norm_that_does_not_fit(models, tmp_path):
    good = models / GOOD_FILES[AUDIO]
    path = copy_of(good, tmp_path)
    tensors = load_file(good)
    gain = next(name for name in tensors if name.endswith("conv.parametrizations.weight.original0"))
    save_file({**tensors, gain: torch.ones(5)}, path)
    assert "copy.safetensors is incomplete: 1 tensors missing (encoder.pos_conv_embed.conv.weight)" in refusal(AUDIO, path)


def test_single_audio_file_with_the_configuration_of_another_model(models, tmp_path):
    path = copy_of(models / GOOD_FILES[AUDIO], tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hubert", "hidden_size": 32}))
    with pytest.raises(
        ValueError, match=r"config\.json is not the configuration of a wav2vec2 model\. Put the one of copy\.safetensors there"
    ):
        LOADERS[AUDIO](path)


# --- the official layouts


@pytest.fixture
def sharded(models, tmp_path):
    """The index of the transformer in two shards."""
    tensors = load_file(models / GOOD_FILES[MODEL])
    places = {name: f"part-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        save_file({name: tensors[name] for name, place in places.items() if place == shard}, tmp_path / shard)
    index = tmp_path / "part.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return index


SHARD = "part-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, rf"1 of 2 shards are missing \({SHARD}\)\. Download them"),
        (b"", rf"{SHARD} is damaged or holds no weights \(it is empty\)\. Download the file again"),
        (LFS_POINTER, rf"{SHARD} is damaged or holds no weights \(it is a Git LFS pointer.*git lfs pull"),
        (
            DAMAGED_FILES["cut_in_data.safetensors"][0],
            rf"{SHARD} is damaged or holds no weights \(it is cut off: .*Download the file again",
        ),
        (DAMAGED_FILES["noise.safetensors"][0], rf"{SHARD} is damaged or holds no weights \(it is in no known format"),
    ],
    ids=["missing", "empty", "pointer", "cut off", "noise"],
)
def test_shard_that_is_not_there(sharded, data, message):
    (sharded.parent / SHARD).unlink()
    if data is not None:
        (sharded.parent / SHARD).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        LOADERS[MODEL](sharded)


def test_shard_of_another_model(sharded):
    save_file({"stranger.weight": torch.zeros(2)}, sharded.parent / SHARD.replace("00002", "00001", 1))
    message = refusal(MODEL, sharded)
    assert re.match(r"part\.safetensors\.index\.json (is incomplete|does not fit Wan2\.2-S2V): \d+ tensors missing", message)


@pytest.mark.parametrize("text", ["", "not JSON", "[]", '{"weight_map": {"a": 3}}', '{"weight_map": []}', WEB_PAGE.decode()])
def test_index_that_is_none(sharded, text):
    sharded.write_text(text)
    assert (
        refusal(MODEL, sharded)
        == f"{sharded.name} is not the index of a sharded checkpoint: it lists no shards. Download the folder again."
    )


def test_one_shard_alone(models, tmp_path):
    tensors = load_file(models / GOOD_FILES[TEXT])
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if "layer.1" not in name or "block.0" in name}, path)
    message = refusal(TEXT, path)
    assert "does not fit umT5: 4 tensors missing" in message
    assert message.endswith("It is one part of a model in several files; pick a single file.")


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (None, r"copy\.pth needs its tokenizer: put spiece\.model of google/umt5-xxl beside it"),
        (b"", r"spiece\.model is damaged \(it is empty\)"),
        (LFS_POINTER, r"spiece\.model is damaged \(it is a Git LFS pointer instead of the file\)\. Run `git lfs pull`"),
        (WEB_PAGE, r"spiece\.model is damaged \(it is a web page"),
        (b"\n\x0e\n\x05<pad>\x15\x00", r"copy\.pth: its tokenizer cannot be read\. Use spiece\.model of google/umt5-xxl"),
    ],
    ids=["missing", "empty", "pointer", "page", "cut off"],
)
def test_tokenizer_of_the_official_text_encoder(models, tmp_path, tokenizer, message):
    official_umt5(models, tmp_path)
    if tokenizer is not None:
        (tmp_path / "spiece.model").write_bytes(tokenizer)
    with pytest.raises(ValueError, match=message):
        LOADERS[TEXT](tmp_path / "copy.pth")


def test_tokenizer_of_another_text_encoder(models, tmp_path):
    tokenizer = official_umt5(models, tmp_path, vocabulary_size=4096)
    (tmp_path / "spiece.model").write_bytes(tokenizer)
    with pytest.raises(
        ValueError, match=r"copy\.pth knows 4,096 words and its tokenizer \d+: it is another model's\. Use spiece\.model of"
    ):
        LOADERS[TEXT](tmp_path / "copy.pth")


def test_empty_tokenizer_of_a_single_file(models, tmp_path):
    path = tmp_path / "copy.safetensors"
    save_file({**load_file(models / GOOD_FILES[TEXT]), "spiece_model": torch.zeros(0, dtype=torch.uint8)}, path)
    assert "copy.safetensors: its tokenizer cannot be read. Use spiece.model of google/umt5-xxl" in refusal(TEXT, path)


def official_umt5(models, folder, vocabulary_size=None):
    """Write the text encoder with the official names to copy.pth; return its tokenizer."""
    tensors = load_file(models / GOOD_FILES[TEXT])
    tokenizer = bytes(tensors.pop("spiece_model"))
    if vocabulary_size:
        tensors["shared.weight"] = torch.zeros(vocabulary_size, tensors["shared.weight"].shape[1])
    rename = pack_module("wan_s2v_model.checkpoints.umt5")._comfyui_name
    names = ["token_embedding.weight", "norm.weight"]
    parts = ["norm1", "norm2", "attn.q", "attn.k", "attn.v", "attn.o", "pos_embedding.embedding", "ffn.gate.0", "ffn.fc1", "ffn.fc2"]
    names += [f"blocks.{index}.{part}.weight" for index in range(2) for part in parts]
    torch.save({name: tensors[rename(name)] for name in names}, folder / "copy.pth")
    return tokenizer


# --- through the server


@pytest.mark.parametrize(
    ("node", "input_name", "folder", "file_name", "words"),
    [
        (VAE, "vae_name", "vae", "page.safetensors", "it is a web page"),
        (MODEL, "model_name", "diffusion_models", "pointer.safetensors", "it is a Git LFS pointer"),
        (TEXT, "text_encoder_name", "text_encoders", "program.pth", "it holds other Python objects"),
    ],
)
def test_message_arrives_through_the_api(node, input_name, folder, file_name, words, renderer, models):
    path = write(models / folder, file_name)
    prompt = quick_start()
    inputs_of(prompt, node)[input_name] = path.name
    try:
        with pytest.raises(PromptFailed) as caught:
            renderer.client.run(prompt)
    finally:
        path.unlink()
    error = caught.value.details  # ComfyUI's execution_error
    assert error["exception_message"].startswith(f"{file_name} is damaged or holds no weights ({words}")
    assert error["exception_type"].endswith("CheckpointError")
    assert (error["node_id"], error["node_type"]) == (find(prompt, node), node)
    assert error["exception_message"].strip() in str(caught.value)


def test_foreign_file_through_the_api(renderer, models):
    shapes, words = FOREIGN_FILES["wan2.2_i2v_high_noise"]
    path = models / "diffusion_models" / "wan2.2_i2v_high_noise_14B.safetensors"
    save_file({name: torch.zeros(tuple(shape)) for name, shape in shapes.items()}, path)
    try:
        with pytest.raises(PromptFailed, match=re.escape(f"{path.name} is not a Wan2.2-S2V transformer: it looks like {words}. Pick a")):
            renderer.client.run(quick_start(model_name=path.name))
    finally:
        path.unlink()
