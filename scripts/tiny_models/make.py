"""Make the tiny model set: the real file layouts with small dimensions and seeded random weights.

Usage: make.py OUT_DIR [--layout NAME ...] [--all-layouts]

OUT_DIR is a ComfyUI models folder; COMFYUI_PATH names the ComfyUI to take the VAE layout from. Without options only the plain set is made:
one file or folder for each of the four models, a LoRA, an upscaler and a network for frame interpolation. layouts.py lists the other
layouts in which the four are published.
The same bytes come out of every run. Videos made with these weights are coloured noise; they only show that every part works.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))

from scripts.tiny_models.enhancers import INTERPOLATION, UPSCALER, compact_shapes, rife_shapes  # noqa: E402
from scripts.tiny_models.layouts import AUDIO_ENCODER, DIFFUSION_MODEL, LAYOUTS, LIVE_LORA, LORA, TEXT_ENCODER, VAE  # noqa: E402
from scripts.tiny_models.loras import write_lora  # noqa: E402
from wan_s2v_model.checkpoints.s2v import expected_shapes  # noqa: E402
from wan_s2v_model.transformer.config import WanS2VConfig  # noqa: E402

Shapes = Mapping[str, Sequence[int]]

STAMP = ".tiny_models"

S2V_TINY = WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))
UMT5_TINY = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2, "relative_attention_num_buckets": 32}
WAV2VEC2_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 24,
    "num_attention_heads": 1,  # as is assumed of a single file of this width without config.json
    "intermediate_size": 64,
    "conv_dim": (32,) * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 33,
}
WAN_VAE_TINY = {
    "dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}

VOCABULARY_SIZE = 300
TOKENIZER_TEXT = """
A portrait of a person who speaks to the camera in a calm and friendly voice, with natural lip movement.
The woman sings a slow song on a small stage; warm light falls on her face and her hair moves in the wind.
An old man with a grey beard tells a story by the fire, looking left and right, his hands follow the words.
Close-up of a young actor, cinematic lighting, shallow depth of field, film grain, high quality, 4k, realistic.
A cartoon fox in a blue jacket gives a cheerful speech in front of a crowd while the music gets louder.
Two friends laugh, nod and answer each other; the background is a quiet street with trees after the rain.
The astronaut in the orange suit smiles, says hello and explains how the engine of the rocket works.
A singer holds the microphone, closes her eyes and keeps one long note until the band stops playing.
Static camera, no cuts, steady head, expressive eyes, detailed skin, sharp focus, soft shadows, subtle motion.
Bad quality, blurry, overexposed, still picture, text, watermark, extra fingers, deformed hands, three legs.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path, help="models folder to write into")
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=[], metavar="NAME", help=f"also write: {', '.join(LAYOUTS)}")
    parser.add_argument("--all-layouts", action="store_true", help="also write every layout")
    options = parser.parse_args()
    make_tiny_models(options.out_dir)
    for name in LAYOUTS if options.all_layouts else options.layout:
        LAYOUTS[name].make(options.out_dir)


def make_tiny_models(folder: Path) -> None:
    """Write the plain set into a ComfyUI models folder, unless this version of the script has done so before."""
    stamp, key = folder / STAMP, hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    files = (DIFFUSION_MODEL, TEXT_ENCODER, AUDIO_ENCODER, VAE, LORA, LIVE_LORA, UPSCALER, INTERPOLATION)
    complete = all((folder / path).exists() for path in files)
    if complete and stamp.exists() and stamp.read_text(encoding="utf-8") == key:
        return
    make_diffusion_model(folder / DIFFUSION_MODEL)
    make_text_encoder(folder / TEXT_ENCODER)
    make_audio_encoder(folder / AUDIO_ENCODER)
    make_vae(folder / VAE)
    write_lora("lightx2v", expected_shapes(S2V_TINY), folder / LORA)
    write_lora("live_avatar", expected_shapes(S2V_TINY), folder / LIVE_LORA)
    save(random_state_dict(compact_shapes()), folder / UPSCALER)
    save(random_state_dict(rife_shapes()), folder / INTERPOLATION)
    stamp.write_text(key, encoding="utf-8")


def make_diffusion_model(path: Path) -> None:
    """Write the transformer; the metadata carries what cannot be seen from shapes."""
    metadata = {"config": json.dumps({"transformer": S2V_TINY.to_metadata()})}
    save(random_state_dict(expected_shapes(S2V_TINY)), path, metadata)


def make_text_encoder(path: Path) -> None:
    """Write umT5 with ComfyUI's key names and a sentencepiece model inside."""
    tokenizer = train_tokenizer()
    size = sentencepiece.SentencePieceProcessor(model_proto=tokenizer).get_piece_size()
    state_dict = random_state_dict(umt5_shapes(size))
    state_dict["spiece_model"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    save(state_dict, path)


def umt5_shapes(vocabulary_size: int, config: Mapping[str, int] = UMT5_TINY) -> Shapes:
    """Name and shape of every tensor of a umT5 encoder; each layer has its own relative position bias."""
    dim, ff, heads = config["d_model"], config["d_ff"], config["num_heads"]
    inner = heads * config["d_kv"]
    shapes: dict[str, Sequence[int]] = {"shared.weight": (vocabulary_size, dim), "encoder.final_layer_norm.weight": (dim,)}
    for index in range(config["num_layers"]):
        attention, feed_forward = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        shapes |= {f"{attention}.SelfAttention.{part}.weight": (inner, dim) for part in "qkv"}
        shapes[f"{attention}.SelfAttention.o.weight"] = (dim, inner)
        shapes[f"{attention}.SelfAttention.relative_attention_bias.weight"] = (config["relative_attention_num_buckets"], heads)
        shapes |= {f"{feed_forward}.DenseReluDense.{part}.weight": (ff, dim) for part in ("wi_0", "wi_1")}
        shapes[f"{feed_forward}.DenseReluDense.wo.weight"] = (dim, ff)
        shapes |= {f"{part}.layer_norm.weight": (dim,) for part in (attention, feed_forward)}
    return shapes


def train_tokenizer() -> bytes:
    """Train a sentencepiece model with umT5's settings on the text above."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TOKENIZER_TEXT.strip().splitlines()),
        model_writer=model,
        model_type="unigram",
        vocab_size=VOCABULARY_SIZE,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        required_chars="0123456789.,;:!?'\"()/-+",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def make_audio_encoder(folder: Path) -> None:
    """Write a wav2vec2 folder as the transformers library saves it."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**WAV2VEC2_TINY))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(random_state_dict(shapes))
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)


def make_vae(path: Path) -> None:
    """Write a Wan2.1 VAE; ComfyUI's own class names the tensors."""
    save(random_state_dict(vae_shapes()), path)


def vae_shapes() -> Shapes:
    """Build ComfyUI's class without memory behind it and read names and shapes."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH") or str(ROOT / ".comfyui"))
    from comfy.cli_args import args

    args.cpu = True  # ComfyUI looks for a GPU while it is imported
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        vae = WanVAE(**WAN_VAE_TINY)
    return {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}


# --- random weights


def random_state_dict(shapes: Shapes) -> dict[str, Tensor]:
    return {name: random_tensor(name, shape) for name, shape in sorted(shapes.items())}


def random_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """Random values, never zero as a whole, of a size that keeps activations near 1; exact in bfloat16.

    The seed is the name, so that a tensor does not depend on the others.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(*shape, generator=generator)
    if is_scale(name, shape):
        values = 1 + 0.02 * values
    elif len(shape) < 2:
        values = 0.02 * values
    else:
        values = values / math.sqrt(math.prod(shape[1:]))
    return values.bfloat16().float()


def is_scale(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor multiplies: norm weights, the magnitudes of a weight norm, the mix of the audio layers."""
    return name.endswith(("gamma", "original0", "casual_audio_encoder.weights")) or (name.endswith("weight") and len(shape) == 1)


def save(state_dict: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file in bfloat16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()}
    save_file(tensors, path, dict(metadata) if metadata else None)


if __name__ == "__main__":
    main()
