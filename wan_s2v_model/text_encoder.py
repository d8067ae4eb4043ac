"""Prompt cleaning and the shape of a umT5 encoder; the encoder itself is ComfyUI's."""

import html
import logging
import re
import unicodedata
from typing import Any

from .checkpoint import CheckpointError, Shapes, describe

logger = logging.getLogger("wan_s2v")

MAX_TOKENS = 512  # the end token included
BLOCK = "encoder.block.{}.layer."
ATTENTION = BLOCK + "0.SelfAttention."
FEED_FORWARD = BLOCK + "1.DenseReluDense."
QUOTES = str.maketrans("ʼ‘’‚‛“”„‟", "'''''\"\"\"\"")  # noqa: RUF001


def clean_prompt(text: str) -> str:
    """Undo HTML escapes (twice), fold full-width characters and curly quotes, collapse white space, as the reference does.

    The reference also repairs wrongly decoded text (mojibake); this does not.
    """
    text = html.unescape(html.unescape(text)).translate(QUOTES)
    text = "".join(unicodedata.normalize("NFKC", c) if unicodedata.east_asian_width(c) in "FH" else c for c in text)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def infer_umt5_config(shapes: Shapes, file_name: str) -> dict[str, int]:
    """Dimensions of a umT5 encoder in ComfyUI's (Hugging Face's) key names.

    Raises:
        CheckpointError: if the file is something else, or tensors are missing.
    """
    if "token_embedding.weight" in shapes:
        raise CheckpointError(
            f"{file_name} is umT5 with the official key names. Pick ComfyUI's umT5 file instead, for example "
            "umt5_xxl_fp16.safetensors or umt5_xxl_fp8_e4m3fn_scaled.safetensors."
        )
    if ATTENTION.format(0) + "relative_attention_bias.weight" not in shapes or "shared.weight" not in shapes:
        raise CheckpointError(
            f"{file_name} is not a umT5 text encoder: it looks like {describe(set(shapes))}. "
            "Pick umt5_xxl_fp16.safetensors or umt5_xxl_fp8_e4m3fn_scaled.safetensors in models/text_encoders."
        )
    layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.block."))
    missing = [name for name in _required_names(layers) if name not in shapes]
    if missing:
        raise CheckpointError(f"{file_name}: {len(missing)} tensors are missing ({', '.join(missing[:3])}). Download the file again.")
    heads = shapes[ATTENTION.format(0) + "relative_attention_bias.weight"][1]
    return {
        "d_model": shapes["shared.weight"][1],
        "vocab_size": shapes["shared.weight"][0],
        "d_ff": shapes[FEED_FORWARD.format(0) + "wi_0.weight"][0],
        "d_kv": shapes[ATTENTION.format(0) + "q.weight"][0] // heads,
        "num_heads": heads,
        "num_layers": layers,
    }


def _required_names(layers: int) -> list[str]:
    names = ["shared.weight", "encoder.final_layer_norm.weight", "spiece_model"]
    for layer in range(layers):
        names += [ATTENTION.format(layer) + f"{part}.weight" for part in ("q", "k", "v", "o", "relative_attention_bias")]
        names += [FEED_FORWARD.format(layer) + f"{part}.weight" for part in ("wi_0", "wi_1", "wo")]
        names += [BLOCK.format(layer) + f"{part}.layer_norm.weight" for part in (0, 1)]
    return names


def encode_prompt(clip: Any, prompt: str) -> list:
    """Encode a prompt as CONDITIONING: cleaned, cut to 512 tokens with the end token, without (word:1.2) weights."""
    tokens = clip.tokenize(clean_prompt(prompt), disable_weights=True)
    for batches in tokens.values():
        joined = [token for batch in batches for token in batch]
        if len(joined) > MAX_TOKENS:
            logger.warning("the prompt has %d tokens; only the first %d are used", len(joined), MAX_TOKENS)
            batches[:] = [[*joined[: MAX_TOKENS - 1], joined[-1]]]
    return clip.encode_from_tokens_scheduled(tokens)
