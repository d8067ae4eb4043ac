"""Prompt cleaning and the shape of a umT5 encoder; the encoder itself is ComfyUI's."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..untrusted import read_plain
from .file_format import CheckpointError
from .identify import TOKENIZER, UMT5, Shapes, count_layers, find_tokenizer, is_official_umt5, require
from .shapes import require_dimensions, require_fit

logger = logging.getLogger("wan_s2v")
OFFICIAL_NAMES = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
OFFICIAL_PARTS = {
    "norm1": "0.layer_norm",
    "norm2": "1.layer_norm",
    "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "1.DenseReluDense.wi_0",
    "ffn.fc1": "1.DenseReluDense.wi_1",
    "ffn.fc2": "1.DenseReluDense.wo",
}
BLOCK = "encoder.block.{}.layer."
ATTENTION = BLOCK + "0.SelfAttention."
FEED_FORWARD = BLOCK + "1.DenseReluDense."
POSITION_BIAS = ATTENTION.format(0) + "relative_attention_bias.weight"
POSITION_BUCKETS = 32
LARGEST_TOKENIZER = 100_000_000  # bytes; that of umT5 has 4.5 million
OTHER_HALF = ("decoder.", "lm_head.")  # of the whole umT5, which writes text
TIED = "encoder.embed_tokens.weight"  # the same table as shared.weight
DIMENSION_RANKS = {
    "shared.weight": 2,
    POSITION_BIAS: 2,
    FEED_FORWARD.format(0) + "wi_0.weight": 2,
    ATTENTION.format(0) + "q.weight": 2,
}


def to_comfyui(state_dict: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a umT5 encoder under ComfyUI's names, with the tokenizer that lies beside the file if there is none inside.

    Raises:
        CheckpointError: if the tokenizer is not there, or only a pointer or a page in its place.
    """
    is_official = is_official_umt5(state_dict)
    encoder = {name: tensor for name, tensor in state_dict.items() if not name.startswith(OTHER_HALF)}
    renamed = {_comfyui_name(name) if is_official else name: tensor for name, tensor in encoder.items()}
    if TOKENIZER in renamed:
        return renamed
    tokenizer = find_tokenizer(path.parent, path.name)
    return {**renamed, TOKENIZER: torch.frombuffer(bytearray(_bytes_of(tokenizer)), dtype=torch.uint8)}


def _bytes_of(tokenizer: Path) -> bytes:
    try:
        return read_plain(tokenizer, LARGEST_TOKENIZER, through_links=True)
    except OSError as error:
        raise CheckpointError(f"{tokenizer.name} cannot be read: {error.strerror}. Get it again.") from error


def _comfyui_name(name: str) -> str:
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
    if block is None:
        return OFFICIAL_NAMES.get(name, name)
    part = OFFICIAL_PARTS.get(block[2], block[2])
    return BLOCK.format(block[1]) + part.replace("attn.", "0.SelfAttention.") + f".{block[3]}"


def infer_umt5_config(shapes: Shapes, file_name: str) -> dict[str, int]:
    """Dimensions of a umT5 encoder in ComfyUI's (Hugging Face's) key names.

    Raises:
        CheckpointError: if the file is something else, or does not hold exactly the tensors of a umT5 encoder.
    """
    require(UMT5, shapes, file_name)
    require_dimensions(shapes, DIMENSION_RANKS, file_name)
    heads = shapes[POSITION_BIAS][1]
    config = {
        "d_model": shapes["shared.weight"][1],
        "vocab_size": shapes["shared.weight"][0],
        "d_ff": shapes[FEED_FORWARD.format(0) + "wi_0.weight"][0],
        "d_kv": shapes[ATTENTION.format(0) + "q.weight"][0] // heads,
        "num_heads": heads,
        "num_layers": count_layers(shapes, r"encoder\.block"),
    }
    expected = {**_expected_shapes(config), TOKENIZER: shapes.get(TOKENIZER, ())}
    require_fit({name: shape for name, shape in shapes.items() if name != TIED}, expected, "umT5", file_name)
    return config


def _expected_shapes(config: dict[str, int]) -> dict[str, tuple[int, ...]]:
    dim, ff, inner = config["d_model"], config["d_ff"], config["num_heads"] * config["d_kv"]
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (config["vocab_size"], dim), "encoder.final_layer_norm.weight": (dim,)}
    for layer in range(config["num_layers"]):
        shapes |= {ATTENTION.format(layer) + f"{part}.weight": (inner, dim) for part in "qkv"}
        shapes[ATTENTION.format(layer) + "o.weight"] = (dim, inner)
        shapes[ATTENTION.format(layer) + "relative_attention_bias.weight"] = (POSITION_BUCKETS, config["num_heads"])
        shapes |= {FEED_FORWARD.format(layer) + f"{part}.weight": (ff, dim) for part in ("wi_0", "wi_1")}
        shapes[FEED_FORWARD.format(layer) + "wo.weight"] = (dim, ff)
        shapes |= {BLOCK.format(layer) + f"{part}.layer_norm.weight": (dim,) for part in (0, 1)}
    return shapes
