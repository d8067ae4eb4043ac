"""Every layout in which the four models are published, written from the plain tiny set. Imports nothing of the pack.

A layout that loses precision has a twin that ends in `_exact`: a plain file, in float32, with the weights that the layout stands for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from .encodings import (
    Tensors,
    as_bf16,
    as_fp8_layers,
    as_fp8_rows,
    as_fp8_scaled,
    as_fp8_scaled_text_encoder,
    as_fp16,
    as_fp32,
    as_packed,
    as_q8_0,
    exact_fp8,
    exact_fp8_rows,
    exact_fp16,
    exact_packed,
    exact_q8_0,
)

DIFFUSION_MODEL = "diffusion_models/wan_s2v_tiny.safetensors"
TEXT_ENCODER = "text_encoders/umt5_tiny.safetensors"
AUDIO_ENCODER = "audio_encoders/wav2vec2-tiny"
VAE = "vae/wan_2.1_vae_tiny.safetensors"
LORA = "loras/tiny_lightx2v.safetensors"
LIVE_LORA = "loras/tiny_live_avatar.safetensors"
PLAIN = {path.split("/")[0]: path for path in (DIFFUSION_MODEL, TEXT_ENCODER, AUDIO_ENCODER, VAE)}

NUM_SHARDS = 2
SHARD = "{}-{:05d}-of-{:05d}.safetensors"
INDEX = "{}.safetensors.index.json"
TOKENIZER = "spiece_model"
OFFICIAL_UMT5_PARTS = {
    "0.layer_norm": "norm1",
    "1.layer_norm": "norm2",
    "0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "1.DenseReluDense.wi_0": "ffn.gate.0",
    "1.DenseReluDense.wi_1": "ffn.fc1",
    "1.DenseReluDense.wo": "ffn.fc2",
}
OLD_WEIGHT_NORM = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


# --- what the tensors are called


def prefixed(prefix: str, encode: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in encode(tensors).items()}


def with_tables(encode: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """With what programs store beside the weights."""
    tables = {"freqs": torch.ones(4, 2), "model_sampling.sigmas": torch.ones(10), "blocks.0.self_attn.rope.inv_freq": torch.ones(4)}
    return lambda tensors: {**encode(tensors), **tables, "model_ema.num_updates": torch.tensor(7)}


def checkpointed(tensors: Tensors) -> Tensors:
    """As compiled and checkpointed training names the modules."""
    return {f"_orig_mod.{name.replace('blocks.0.', 'blocks.0._checkpoint_wrapped_module.')}": tensor for name, tensor in tensors.items()}


def transformers_umt5(tensors: Tensors) -> Tensors:
    """As the transformers library saves an encoder: the table twice, no tokenizer inside (it lies in the folder)."""
    return {**as_bf16(tensors), "encoder.embed_tokens.weight": tensors["shared.weight"].bfloat16()}


def clip_save_umt5(tensors: Tensors) -> Tensors:
    """As ComfyUI's CLIP is called inside a whole checkpoint, the tokenizer one level above the weights."""
    above = {TOKENIZER: tensors[TOKENIZER], "logit_scale": torch.tensor(4.6)}
    inside = {f"transformer.{name}": tensor for name, tensor in as_bf16(tensors).items() if name != TOKENIZER}
    return {f"text_encoders.umt5xxl.{name}": tensor for name, tensor in (inside | above).items()}


def official_umt5(tensors: Tensors) -> Tensors:
    return {official_umt5_name(name): tensor for name, tensor in as_bf16(tensors).items()}


def official_umt5_name(name: str) -> str:
    if not name.startswith("encoder.block."):
        return {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}.get(name, name)
    _, _, block, _, part = name.removesuffix(".weight").split(".", 4)
    return f"blocks.{block}.{OFFICIAL_UMT5_PARTS.get(part, part.replace('0.SelfAttention.', 'attn.'))}.weight"


def old_weight_norm(tensors: Tensors) -> Tensors:
    for new, old in OLD_WEIGHT_NORM.items():
        tensors = {name.replace(new, old): tensor for name, tensor in tensors.items()}
    return tensors


def comfyui_wav2vec2(tensors: Tensors) -> Tensors:
    """In half precision, without the prefix and the head for speech recognition."""
    return {name.removeprefix("wav2vec2."): tensor for name, tensor in as_fp16(tensors).items() if not name.startswith("lm_head.")}


# --- how it is stored: files and folders


def write_file(tensors: Tensors, plain: Path, path: Path) -> None:
    save_file(tensors, path, metadata_of(plain))


def write_file_of_marked_layers(tensors: Tensors, plain: Path, path: Path) -> None:
    """The marks of quantised layers in the header of the file."""
    marks = {name.removesuffix(".comfy_quant"): json.loads(bytes(mark)) for name, mark in tensors.items() if name.endswith(".comfy_quant")}
    stored = {name: tensor for name, tensor in tensors.items() if not name.endswith(".comfy_quant")}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": marks})}
    path.write_bytes(in_order(save(stored, {**(metadata_of(plain) or {}), **metadata})))


def in_order(file: bytes) -> bytes:
    """The same safetensors file with its metadata sorted; the library writes several entries in random order."""
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return file[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(length) + file[8 + length :]


def write_official_folder(tensors: Tensors, plain: Path, folder: Path) -> None:
    """Shards, index, config.json."""
    write_shards(tensors, folder, "diffusion_pytorch_model")
    config = json.loads((metadata_of(plain) or {})["config"])["transformer"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_shards(tensors: Tensors, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True)
    places = {name: SHARD.format(stem, 1 + index % NUM_SHARDS, NUM_SHARDS) for index, name in enumerate(sorted(tensors))}
    for shard in sorted(set(places.values())):
        save_file({name: tensors[name] for name, place in places.items() if place == shard}, folder / shard)
    (folder / INDEX.format(stem)).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")


def write_shards_and_tokenizer(tensors: Tensors, _: Path, folder: Path) -> None:
    """As diffusers lays out a pipeline: the tokenizer in a folder of its own beside that of the shards."""
    write_shards({name: tensor for name, tensor in tensors.items() if name != TOKENIZER}, folder, "model")
    tokenizer = folder.with_name("tokenizer") / "spiece.model"
    tokenizer.parent.mkdir(exist_ok=True)
    tokenizer.write_bytes(bytes(tensors[TOKENIZER].tolist()))


def write_pickle(tensors: Tensors, _: Path, path: Path) -> None:
    torch.save(tensors, path)


def write_pickle_and_tokenizer(tensors: Tensors, plain: Path, path: Path) -> None:
    """The official text encoder, which has its tokenizer in a folder beside it."""
    tokenizer = path.parent / "google" / "umt5-xxl" / "spiece.model"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.write_bytes(bytes(tensors[TOKENIZER].tolist()))
    write_pickle({name: tensor for name, tensor in tensors.items() if name != TOKENIZER}, plain, path)


def write_file_and_tokenizer(tensors: Tensors, plain: Path, path: Path) -> None:
    """A folder with one file and the tokenizer, as diffusers has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("tokenizer").mkdir(exist_ok=True)
    (path.with_name("tokenizer") / "spiece.model").write_bytes(bytes(tensors[TOKENIZER].tolist()))
    write_file({name: tensor for name, tensor in tensors.items() if name != TOKENIZER}, plain, path)


def write_transformers_folder(tensors: Tensors, plain: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(plain.with_name("config.json"), folder)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def write_transformers_pickle(tensors: Tensors, plain: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(plain.with_name("config.json"), folder)
    torch.save(tensors, folder / "pytorch_model.bin")


def metadata_of(path: Path) -> dict[str, str] | None:
    with safe_open(path, "pt") as file:
        return file.metadata()


# --- the layouts


@dataclass(frozen=True)
class Layout:
    """One way in which a model is published.

    Attributes:
        pick: what to pick in the loader, below the models folder.
        encode: gives the stored tensors. write: puts them into files.
        twin: the model that must give the same output, bit for bit; the plain one unless the layout loses precision.
    """

    pick: str
    encode: Callable[[Tensors], Tensors]
    write: Callable[[Tensors, Path, Path], None] = write_file
    twin: str = ""

    @property
    def plain(self) -> str:
        """The model of the plain set from which the layout is written."""
        return PLAIN[self.pick.split("/")[0]]

    @property
    def same_as(self) -> str:
        return self.twin or self.plain

    def make(self, models: Path) -> None:
        """Write the layout into a models folder that holds the plain set, in place of what was there."""
        plain, path = models / self.plain, models / self.pick
        plain = plain / "model.safetensors" if plain.is_dir() else plain
        if path.is_dir():
            shutil.rmtree(path)
        self.write(self.encode(as_fp32(load_file(plain))), plain, path)


DIT, UMT5 = "diffusion_models/wan2.2_s2v_tiny", "text_encoders/umt5_tiny"
DIT_FP16, DIT_FP8, DIT_Q8_0 = (f"{DIT}_{name}_exact.safetensors" for name in ("fp16", "fp8", "q8_0"))
UMT5_FP16, UMT5_FP8 = (f"{UMT5}_{name}_exact.safetensors" for name in ("fp16", "fp8"))
DIT_NVFP4, DIT_MXFP8, DIT_ROWS = (f"{DIT}_{name}_exact.safetensors" for name in ("nvfp4", "mxfp8", "fp8_rows"))
UMT5_NVFP4 = f"{UMT5}_nvfp4_exact.safetensors"
WAV2VEC2_FP16 = "audio_encoders/wav2vec2-tiny-fp16-exact"
LONG, SHORT = "model.diffusion_model.", "diffusion_model."

LAYOUTS = {
    "dit_folder": Layout("diffusion_models/Wan2.2-S2V-tiny", as_bf16, write_official_folder),
    "dit_fp32": Layout(f"{DIT}_fp32.safetensors", as_fp32),
    "dit_fp16": Layout(f"{DIT}_fp16.safetensors", as_fp16, twin=DIT_FP16),
    "dit_fp8_scaled": Layout(f"{DIT}_fp8_scaled.safetensors", as_fp8_scaled, twin=DIT_FP8),
    "dit_fp8_layers": Layout(f"{DIT}_fp8_layers.safetensors", as_fp8_layers, twin=DIT_FP8),
    "dit_fp8_header": Layout(f"{DIT}_fp8_header.safetensors", as_fp8_layers, write_file_of_marked_layers, DIT_FP8),
    "dit_prefix": Layout(f"{DIT}_prefix.safetensors", prefixed(LONG, as_bf16)),
    "dit_short_prefix": Layout(f"{DIT}_short_prefix.safetensors", prefixed(SHORT, as_bf16)),
    "dit_prefix_fp8_scaled": Layout(f"{DIT}_prefix_fp8_scaled.safetensors", prefixed(LONG, as_fp8_scaled), twin=DIT_FP8),
    "dit_prefix_fp8_layers": Layout(f"{DIT}_prefix_fp8_layers.safetensors", prefixed(LONG, as_fp8_layers), twin=DIT_FP8),
    "dit_prefix_fp8_header": Layout(
        f"{DIT}_prefix_fp8_header.safetensors", prefixed(SHORT, as_fp8_layers), write_file_of_marked_layers, DIT_FP8
    ),
    "dit_net": Layout(f"{DIT}_net.safetensors", prefixed("net.", with_tables(as_bf16))),
    "dit_nested": Layout(f"{DIT}_nested.safetensors", prefixed("module.pipe.dit.", as_bf16)),
    "dit_compiled": Layout(f"{DIT}_compiled.safetensors", checkpointed),
    "dit_transformer_fp8_scaled": Layout(f"{DIT}_transformer_fp8.safetensors", prefixed("transformer.", as_fp8_scaled), twin=DIT_FP8),
    "dit_nvfp4": Layout(f"{DIT}_nvfp4.safetensors", as_packed("nvfp4"), twin=DIT_NVFP4),
    "dit_prefix_nvfp4_header": Layout(
        f"{DIT}_prefix_nvfp4.safetensors", prefixed(LONG, as_packed("nvfp4")), write_file_of_marked_layers, DIT_NVFP4
    ),
    "dit_mxfp8": Layout(f"{DIT}_mxfp8.safetensors", as_packed("mxfp8"), twin=DIT_MXFP8),
    "dit_fp8_rows": Layout(f"{DIT}_fp8_rows.safetensors", as_fp8_rows, twin=DIT_ROWS),
    "dit_nvfp4_exact": Layout(DIT_NVFP4, exact_packed("nvfp4")),
    "dit_mxfp8_exact": Layout(DIT_MXFP8, exact_packed("mxfp8")),
    "dit_fp8_rows_exact": Layout(DIT_ROWS, exact_fp8_rows),
    "dit_q8_0": Layout(f"{DIT}_q8_0.safetensors", as_q8_0, twin=DIT_Q8_0),  # for the stand-in of a GGUF loader
    "dit_fp16_exact": Layout(DIT_FP16, exact_fp16),
    "dit_fp8_exact": Layout(DIT_FP8, exact_fp8),
    "dit_q8_0_exact": Layout(DIT_Q8_0, exact_q8_0),
    "umt5_fp16": Layout(f"{UMT5}_fp16.safetensors", as_fp16, twin=UMT5_FP16),
    "umt5_fp8_scaled": Layout(f"{UMT5}_fp8_e4m3fn_scaled.safetensors", as_fp8_scaled_text_encoder, twin=UMT5_FP8),
    "umt5_official": Layout("text_encoders/models_t5_umt5-tiny-enc-bf16.pth", official_umt5, write_pickle_and_tokenizer),
    "umt5_transformers": Layout("text_encoders/umt5-tiny-diffusers/model.safetensors", transformers_umt5, write_file_and_tokenizer),
    "umt5_shards": Layout("text_encoders/umt5-tiny-pipeline/text_encoder", transformers_umt5, write_shards_and_tokenizer),
    "umt5_clip_save": Layout(f"{UMT5}_clip_save.safetensors", clip_save_umt5),
    "umt5_nvfp4": Layout(f"{UMT5}_nvfp4.safetensors", as_packed("nvfp4"), twin=UMT5_NVFP4),
    "umt5_nvfp4_exact": Layout(UMT5_NVFP4, exact_packed("nvfp4")),
    "umt5_fp16_exact": Layout(UMT5_FP16, exact_fp16),
    "umt5_fp8_exact": Layout(UMT5_FP8, exact_fp8),
    "wav2vec2_old": Layout("audio_encoders/wav2vec2-tiny-old", old_weight_norm, write_transformers_folder),
    "wav2vec2_pickle": Layout("audio_encoders/wav2vec2-tiny-pickle", as_fp32, write_transformers_pickle),
    "wav2vec2_old_pickle": Layout("audio_encoders/wav2vec2-tiny-old-pickle", old_weight_norm, write_transformers_pickle),
    "wav2vec2_comfyui": Layout("audio_encoders/wav2vec2_tiny_fp16.safetensors", comfyui_wav2vec2, twin=WAV2VEC2_FP16),
    "wav2vec2_comfyui_prefix": Layout("audio_encoders/wav2vec2_tiny_prefix_fp16.safetensors", as_fp16, twin=WAV2VEC2_FP16),
    "wav2vec2_nested": Layout("audio_encoders/wav2vec2-tiny-nested", prefixed("model.", old_weight_norm), write_transformers_folder),
    "wav2vec2_fp16_exact": Layout(WAV2VEC2_FP16, exact_fp16, write_transformers_folder),
    "vae_official": Layout("vae/Wan2.1_VAE_tiny.pth", as_fp32, write_pickle),
    "vae_model": Layout("vae/wan_vae_tiny_model.pth", prefixed("model.", as_fp32), write_pickle),
    "vae_of_checkpoint": Layout("vae/wan_vae_tiny_prefix.safetensors", prefixed("vae.", as_fp32)),
}
