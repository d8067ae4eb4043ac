"""The published files of the four models without their values: names and shapes of all tensors, and files of holes with such headers."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from wan_s2v_pack.scripts.tiny_models.layouts import OLD_WEIGHT_NORM, official_umt5_name
from wan_s2v_pack.scripts.tiny_models.make import umt5_shapes
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import expected_shapes
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B

Shapes = Mapping[str, Sequence[int]]

# As DiffSynth-Studio's model registry has them, made from the files on the hub: (fingerprint, number of tensors)
FINGERPRINTS = {
    "S2V transformer": ("966cffdcc52f9c46c391768b27637614", 1260),
    "official umT5-XXL encoder": ("9c8818c2cbea55eca56c7b447df170da", 242),
    "wav2vec2-large-xlsr-53-english": ("06be60f3a4526586d8431cd038a71486", 424),
    "Wan2.1 VAE": ("ccc42284ea13e1ad04693284c7a09be6", 194),
}
UMT5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_heads": 64, "num_layers": 24, "relative_attention_num_buckets": 32}
VOCABULARY = 256_384
WAV2VEC2_LARGE = {
    **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096, "vocab_size": 33},
    **{"conv_bias": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "model_type": "wav2vec2"},
}
VAE_WIDTH = 96
PROBE_BYTES, LARGEST_BYTES = 1_000_000, 40_000_000_000
TOKENIZER_BYTES = 4_548_313  # of spiece.model of google/umt5-xxl
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "U8": torch.uint8}


def fingerprint(shapes: Shapes) -> str:
    """MD5 of the sorted names, each of them plain and once more with its shape (`name:3_5`), with commas between them."""
    words = sorted([*shapes, *(f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items())])
    return hashlib.md5(",".join(words).encode(), usedforsecurity=False).hexdigest()


def transformer() -> Shapes:
    return expected_shapes(S2V_14B)


def text_encoder() -> Shapes:
    """In ComfyUI's names, without the tokenizer."""
    return umt5_shapes(VOCABULARY, UMT5_XXL)


def official_text_encoder() -> Shapes:
    return {official_umt5_name(name): shape for name, shape in text_encoder().items()}


def audio_encoder() -> Shapes:
    """As the transformers library made it when the file was saved: with the head, the positional convolution in weight norm."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    with torch.device("meta"):
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**WAV2VEC2_LARGE))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for new, old in OLD_WEIGHT_NORM.items():
        shapes = {name.replace(new, old): shape for name, shape in shapes.items()}
    return shapes


def write_holes(path: Path, shapes: Shapes, dtype: str, metadata: Mapping[str, str] | None = None, **bytes_of: int) -> Path:
    """Write a safetensors file of full size, of which the disk keeps the header only; bytes_of: tensors of bytes and their length."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, stored, shape in [*((name, dtype, shape) for name, shape in shapes.items()), *((n, "U8", [b]) for n, b in bytes_of.items())]:
        begin, end = end, end + math.prod(shape) * DTYPES[stored].itemsize
        header[name] = {"dtype": stored, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def write_pickled_holes(path: Path, shapes: Shapes, dtype: torch.dtype) -> Path:
    """The same as a PyTorch file; the tensors get memory, of which nothing is touched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(tuple(shape), dtype=dtype) for name, shape in shapes.items()}, path)
    return path


def read_without_values(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    """Tensors of a file, which say of themselves what full ones say, without memory behind them, and its metadata.

    ComfyUI's own reader maps all of the file, which small machines refuse.
    """
    if Path(path).suffix != ".safetensors":
        return _without_values(torch.load(path, map_location="meta", weights_only=True)), None
    with Path(path).open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    metadata = header.pop("__metadata__", None)
    meta = {name: torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]], device="meta") for name, entry in header.items()}
    return _without_values(meta), metadata


def _without_values(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors like these that say they lie in main memory: our loaders refuse those of the device `meta`."""
    with FakeTensorMode():
        return {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu") for name, tensor in tensors.items()}


def require_holes(folder: Path) -> None:
    """Skip the test on a disk that has no files of this size, or keeps their holes as zeros."""
    probe = folder / "probe"
    try:
        for size in (PROBE_BYTES, LARGEST_BYTES):
            with probe.open("wb") as file:
                file.truncate(size)
            if getattr(probe.stat(), "st_blocks", size) * 512 >= PROBE_BYTES:
                pytest.skip("this disk keeps the holes of files as zeros")
    except OSError as error:
        pytest.skip(f"this disk has no files of {LARGEST_BYTES / 1e9:.0f} GB: {error.strerror}")
    finally:
        probe.unlink(missing_ok=True)
