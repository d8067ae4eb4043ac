"""What the doctor says of a weights file without loading it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.cli.models.files import PARTS
from wan_s2v_pack.cli.models.headers import DOWNLOAD, LEAVE, REPLACE, HeaderError, OtherModelError, describe, find_candidates, read_header
from wan_s2v_pack.tests.damaged_files import AGAIN, DAMAGED_FILES, LFS_POINTER, Program, with_header
from wan_s2v_pack.tests.damaged_files import GGUF as GGUF_FILE
from wan_s2v_pack.tests.damaged_files import write as write_damaged
from wan_s2v_pack.tests.foreign_files import FOREIGN_FILES, official_umt5, prefixed, wav2vec2
from wan_s2v_pack.tests.systems import needs_links
from wan_s2v_pack.wan_s2v_model.checkpoints.identify import S2V_KEYS

ONLY_SEEN_WHEN_LOADED = {
    "strange_type.safetensors",
    "cut_old_pickle.pth",
    "other_place.pth",
    "program.pth",
    "program.bin",
    "module.pth",
    "list.pth",
    "training.pth",
}
VAE_KEY = "decoder.middle.0.residual.0.gamma"


def write(path, *names, dtype=torch.bfloat16):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.zeros(64, dtype=dtype) for name in names}, path, metadata={"format": "pt"})
    return path


def test_kind_and_size_of_a_whole_file(tmp_path):
    path = write(tmp_path / "model.safetensors", *S2V_KEYS)
    assert describe(path, "model") == (path.stat().st_size, "bf16")
    assert set(read_header(path)) == set(S2V_KEYS)


def test_tokenizer_does_not_count_as_weights(tmp_path):
    path = tmp_path / "umt5.safetensors"
    names = {"spiece_model": torch.zeros(9999, dtype=torch.uint8), "shared.weight": torch.zeros(8, dtype=torch.float16)}
    save_file(names, path)
    assert describe(path, "text")[1] == "fp16"


def test_prefixed_names_are_recognised(tmp_path):
    path = write(tmp_path / "model.safetensors", *(f"model.diffusion_model.{name}" for name in S2V_KEYS))
    assert describe(path, "model")[1] == "bf16"


def test_other_model_is_named(tmp_path):
    path = write(tmp_path / "s2v.safetensors", VAE_KEY)
    with pytest.raises(OtherModelError, match=r"^it is a Wan VAE$"):
        describe(path, "model")
    assert describe(path, "vae")[1] == "bf16"


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (None, "it is in no known format"),
        (0, "it is empty"),
        (5, "it is cut off after 5 bytes"),
        (60, "cut off inside its header, after 60 bytes"),
        (-1, r"cut off: \d+ of \d+ bytes"),
    ],
)
def test_damaged_files(tmp_path, length, message):
    path = write(tmp_path / "vae.safetensors", VAE_KEY)
    content = path.read_bytes()
    path.write_bytes(bytes.fromhex("0400000000000000") + b"[[]]" if length is None else content[:length])
    with pytest.raises(HeaderError, match=message):
        describe(path, "vae")


@pytest.mark.parametrize("file_name", sorted(DAMAGED_FILES.keys() - ONLY_SEEN_WHEN_LOADED))
def test_words_of_the_loaders_for_what_is_no_weights_file(file_name, tmp_path):
    _, words, advice = DAMAGED_FILES[file_name]
    with pytest.raises(HeaderError) as caught:
        describe(write_damaged(tmp_path, file_name), "vae")
    assert str(caught.value).startswith(words)
    assert (REPLACE if advice == AGAIN else advice) in caught.value.advice


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}},
        {"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 4]}},
    ],
)
@pytest.mark.parametrize("part", ["vae", "lora"])
def test_entries_that_are_no_tensors(header, part, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(with_header(json.dumps(header).encode(), b"1234"))
    with pytest.raises(HeaderError, match=r"^its (header is damaged|contents cannot be read)$"):
        describe(path, part)


@pytest.mark.parametrize("part", PARTS)
def test_file_without_tensors(part, tmp_path):
    with pytest.raises(HeaderError, match=r"^it holds no tensors$"):
        describe(write(tmp_path / "none.safetensors"), part)


@pytest.mark.parametrize("num_layers", [12, 48])
def test_wav2vec2_of_another_size(num_layers, tmp_path):
    path = write(tmp_path / "wav2vec2.safetensors", *wav2vec2(num_layers))
    with pytest.raises(OtherModelError, match=rf"^it has {num_layers} layers; Wan2\.2-S2V needs 24\. Use wav2vec2-large"):
        describe(path, "audio")


@pytest.mark.parametrize("prefix", ["", "wav2vec2."])
def test_wav2vec2_of_the_right_size(prefix, tmp_path):
    assert describe(write(tmp_path / "wav2vec2.safetensors", *prefixed(prefix, wav2vec2())), "audio")[1] == "bf16"


def write_official_umt5(folder, suffix):
    if suffix == ".safetensors":
        return write(folder / "umt5.safetensors", *official_umt5())
    torch.save({name: torch.zeros(4) for name in official_umt5()}, folder / "umt5.pth")
    return folder / "umt5.pth"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_official_umt5_needs_its_tokenizer(suffix, tmp_path):
    path = write_official_umt5(tmp_path, suffix)
    with pytest.raises(HeaderError, match=r"^it needs its tokenizer: put spiece\.model of google/umt5-xxl beside it") as caught:
        describe(path, "text")
    assert caught.value.advice == DOWNLOAD
    (tmp_path / "spiece.model").write_bytes(LFS_POINTER)
    with pytest.raises(HeaderError, match=r"^spiece\.model is damaged \(it is a Git LFS pointer"):
        describe(path, "text")
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    assert describe(path, "text")[0] == path.stat().st_size


@pytest.mark.parametrize(("name", "part"), [("wan2.2_s2v", "model"), ("umt5_xxl", "text")])
def test_weights_that_other_programs_have_packed(name, part, tmp_path):
    """Before, the doctor said "ok" of a file that no loader reads."""
    path = write(tmp_path / "model.safetensors", *FOREIGN_FILES[name][0], "blocks.0.ffn.0.weight.absmax")
    with pytest.raises(OtherModelError, match=r"^it is quantised by bitsandbytes .* which ComfyUI has no layers for"):
        describe(path, part)


def test_weights_that_are_there_twice(tmp_path):
    names = [f"model.{name}" for name in FOREIGN_FILES["wan2.2_s2v"][0]]
    with pytest.raises(OtherModelError, match=r"^it holds some tensors twice"):
        describe(write(tmp_path / "model.safetensors", *names, "head.modulation"), "model")


def test_other_umt5_without_its_tokenizer(tmp_path):
    path = write(tmp_path / "umt5.safetensors", *FOREIGN_FILES["umt5_without_tokenizer"][0])
    with pytest.raises(HeaderError, match=r"^it needs its tokenizer: put spiece\.model of google/umt5-xxl beside it"):
        describe(path, "text")
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>")
    assert describe(path, "text")[0] == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "part", "words", "advice"),
    [
        ("wan_2.1_vae", "model", "it is a Wan VAE", "Move it to models/vae."),
        ("lora_kohya", "model", "it is a LoRA", "Move it to models/loras."),
        ("wan2.2_s2v", "lora", "it is a Wan2.2-S2V transformer", "Move it to models/diffusion_models."),
        ("wan2.1_t2v_14B", "model", "it is a Wan text-to-video model", LEAVE),
        ("hubert_large", "audio", "it is a HuBERT audio encoder", LEAVE),
    ],
)
def test_way_to_the_right_folder(name, part, words, advice, tmp_path):
    shapes = {key: torch.zeros(tuple(shape)) for key, shape in FOREIGN_FILES[name][0].items()}
    save_file(shapes, tmp_path / "model.safetensors")
    with pytest.raises(OtherModelError) as caught:
        describe(tmp_path / "model.safetensors", part)
    assert (str(caught.value), caught.value.advice) == (words, advice)


def test_gguf_is_for_another_loader(tmp_path):
    path = tmp_path / "wan2.2_s2v-Q4.gguf"
    path.write_bytes(GGUF_FILE)
    assert describe(path, "model") == (len(GGUF_FILE), "GGUF")
    with pytest.raises(OtherModelError, match="it is a GGUF file"):
        describe(path, "text")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["Wan2.1_VAE.pth", "pytorch_model.bin"])
def test_pickles_are_not_opened(tmp_path, name, old):
    path = tmp_path / name
    torch.save({VAE_KEY: Program()}, path, _use_new_zipfile_serialization=not old)
    assert describe(path, "vae") == (path.stat().st_size, "PyTorch file")


def test_cut_off_pickle(tmp_path):
    path = tmp_path / "Wan2.1_VAE.pth"
    torch.save({VAE_KEY: torch.zeros(9)}, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HeaderError, match="cut off"):
        describe(path, "vae")


def test_index_stands_for_its_shards(tmp_path):
    folder = tmp_path / "Wan2.2-S2V-14B"
    shards = [write(folder / f"diffusion_pytorch_model-0000{i}-of-00002.safetensors", name) for i, name in enumerate(S2V_KEYS[:2], 1)]
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard.name for name, shard in zip(S2V_KEYS, shards, strict=False)}}))
    assert find_candidates([tmp_path, tmp_path / "absent"], "s2v") == [(f"Wan2.2-S2V-14B/{index.name}", index)]
    assert describe(index, "model") == (sum(shard.stat().st_size for shard in shards), "bf16, 2 shards")
    shards[1].unlink()
    with pytest.raises(HeaderError, match="1 of its 2 shards are missing") as caught:
        describe(index, "model")
    assert caught.value.advice == DOWNLOAD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "it is no index"),
        ('{"weight_map": {"a": 3}}', "it is no index"),
        ("[" * 100_000, "it is no index"),
        ('{"weight_map": {}}', "it lists no shards"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "1 of its 1 shards are missing"),
    ],
)
def test_damaged_index_is_not_to_be_deleted(text, message, tmp_path):
    index = tmp_path / "s2v.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(HeaderError, match=message) as caught:
        describe(index, "model")
    assert caught.value.advice == DOWNLOAD


@pytest.mark.parametrize(
    ("file_name", "advice"),
    [("cut_in_data.safetensors", "Delete that shard, then: {download}"), ("pointer.safetensors", "Run `git lfs pull` in its folder")],
)
def test_damaged_shard_is_named(file_name, advice, tmp_path):
    index = tmp_path / "s2v.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": write_damaged(tmp_path, file_name).name}}))
    with pytest.raises(HeaderError, match=f"of its shards, {file_name} fails: {DAMAGED_FILES[file_name][1]}") as caught:
        describe(index, "model")
    assert caught.value.advice.startswith(advice)


def test_candidates_are_weights_with_a_usual_name(tmp_path):
    for name in ("a/Wan_S2V.safetensors", "b.safetensors", "s2v.txt", "s2v.safetensors.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in find_candidates([tmp_path], "s2v")] == ["a/Wan_S2V.safetensors"]


@needs_links
def test_candidates_in_a_linked_folder(tmp_path):
    """ComfyUI looks there too."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "s2v.safetensors").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "wan").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "models", target_is_directory=True)
    assert [name for name, _ in find_candidates([tmp_path / "models"], "s2v")] == ["wan/s2v.safetensors"]
