"""Whether the encoders leave the GPU before sampling, and whether memory grows over prompts: full-size models, random weights.

    COMFYUI_PATH=... python bench/encoders_off.py --weights /path/with/60/GB --prompts 10

Each round encodes another prompt and another sound, then samples a short clip (two steps at 320x192) through our sampler, as the nodes do.
"""

import argparse
import gc
import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import full_size

GB = 1e9
HEIGHT, WIDTH, FRAMES, STEPS = 192, 320, 16, 2
UMT5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 24, "relative_attention_num_buckets": 32}
WAV2VEC2_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "conv_dim": [512] * 7,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "vocab_size": 33,
}
WORDS = ("woman", "man", "child", "singer", "robot", "fox", "teacher", "pirate", "nurse", "astronaut")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("."))
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="fp8_scaled")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    logging.basicConfig(level=logging.INFO, format="    log: %(message)s", force=True)
    import torch

    with torch.inference_mode():
        model = bridge.load_diffusion_model(str(full_size.checkpoint(arguments.weights, arguments.layout)), full_size.OPTIONS)
        clip = bridge.load_text_encoder(str(text_encoder(arguments.weights)))
        audio = bridge.AudioEncoder(str(audio_encoder(arguments.weights)), "fp32")
        for index in range(arguments.prompts):
            run(index, bridge, model, clip, audio)


def run(index: int, bridge, model, clip, audio) -> None:
    import torch
    from wan_s2v_pack.wan_s2v_model.audio.features import pick_frames, resample_rows
    from wan_s2v_pack.wan_s2v_model.conditioning.clip import ClipConditioning
    from wan_s2v_pack.wan_s2v_model.conditioning.prompts import encode_prompt

    generator = torch.Generator().manual_seed(index)
    positive, negative = (encode_prompt(clip, f"{text} {WORDS[index % len(WORDS)]} talks, take {index}.") for text in ("A", "No"))
    features = pick_frames(resample_rows(audio.hidden_states(torch.randn(16_000, generator=generator) * 0.1)))
    before = on_gpu(model, clip.patcher, audio.patcher)
    bridge.take_others_off_gpu(model)
    settings = bridge.SamplerSettings(steps=STEPS, cfg=4.5, shift=3.0, solver="unipc")
    sample = bridge.ClipSampler(model, positive, negative, settings, seed=index)
    during = []
    sample.on_step = lambda done, x0: during.append(on_gpu(model, clip.patcher, audio.patcher))
    conditioning = ClipConditioning(
        audio_embedding=torch.nn.functional.pad(features, (0, max(0, FRAMES - features.shape[-1])))[..., :FRAMES][None],
        ref_latents=torch.randn(1, 16, 1, HEIGHT // 8, WIDTH // 8, generator=generator),
        motion_latents=torch.randn(1, 16, 19, HEIGHT // 8, WIDTH // 8, generator=generator),
    )
    latents = sample(0, conditioning, torch.randn(1, 16, FRAMES // 4, HEIGHT // 8, WIDTH // 8, generator=generator))
    gc.collect()
    free, total = torch.cuda.mem_get_info()
    print(
        f"prompt {index + 1:2d}: on the GPU before sampling {table(before)}; at step {len(during)} {table(during[-1])}; "
        f"after: device in use {(total - free) / GB:.2f} GB, torch {torch.cuda.memory_allocated() / GB:.3f} GB, process {resident_gb()}; "
        f"finite {bool(torch.isfinite(latents).all())}",
        flush=True,
    )


def on_gpu(model, text, audio) -> dict[str, float]:
    return {"transformer": model.loaded_size() / GB, "text encoder": text.loaded_size() / GB, "audio encoder": audio.loaded_size() / GB}


def table(sizes: dict[str, float]) -> str:
    return ", ".join(f"{name} {size:.2f} GB" for name, size in sizes.items())


def resident_gb() -> str:
    """Memory of this process by kind: pages of files may be dropped at any time, anonymous ones (pinned included) may not."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    kinds = {line.split(":")[0]: int(line.split()[1]) * 1024 / GB for line in lines if line.startswith("Rss")}
    return f"{kinds['RssAnon']:.2f} GB own + {kinds['RssFile']:.2f} GB of files"


def text_encoder(folder: Path) -> Path:
    """umT5-XXL in ComfyUI's layout, bf16, but with the few words of the tiny tokenizer: 9.3 GB instead of 11.4."""
    import sentencepiece
    import torch
    from safetensors.torch import save_file

    path = folder / "random_umt5_xxl.safetensors"
    if not path.exists():
        tokenizer = comfy_runtime.tiny_models().train_tokenizer()
        pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer).get_piece_size()
        tensors = {name: random(shape, name) for name, shape in comfy_runtime.tiny_models().umt5_shapes(pieces, UMT5_XXL).items()}
        tensors["spiece_model"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
        save_file(tensors, path)
    return path


def audio_encoder(folder: Path) -> Path:
    """wav2vec2-large in the layout of its folder, float32 (1.3 GB)."""
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    path = folder / "wav2vec2" / "model.safetensors"
    if not path.exists():
        path.parent.mkdir()
        (path.parent / "config.json").write_text(json.dumps(WAV2VEC2_LARGE))
        state_dict = Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2_LARGE)).state_dict()
        save_file({f"wav2vec2.{name}": random(tensor.shape, name).float() for name, tensor in state_dict.items()}, path)
    return path


def random(shape, name: str):
    import torch

    values = torch.randn(tuple(shape), device="cuda") * 0.02
    return (values + 1 if ("norm" in name and name.endswith("weight")) or name.endswith("original0") else values).bfloat16().cpu()


if __name__ == "__main__":
    main()
