"""Fast modes of the VAE when it decodes a later clip: fewer latents of motion in front of it, and channels_last_3d.

    COMFYUI_PATH=... python bench/vae_fast.py --vae wan_2.1_vae.safetensors --dtype fp32 bf16
    COMFYUI_PATH=... python bench/vae_fast.py --vae tiny.safetensors --size 128x64 --legacy                  (a trial on the CPU)

Each row is the median of --runs. The difference is from the reference, all 19 latents of motion: over the clip's frames, over the first
latent's four frames, and the largest of single values in 1/255. Random latents are the worst case: nothing in them moves smoothly. With
--latents FILE (a `latents` tensor [1, 16, F, h, w] of a real clip) its first 19 are the motion. Without --vae the weights are random.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import vae_decode

WARMUPS = (19, 12, 8, 6, 4, 3, 2, 1)
CONTEXT = 19
NUM_LATENT_FRAMES = 20
LEVELS = 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vae", type=Path, help="a VAE file")
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--size", default="832x480", help="pixels")
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = str(arguments.vae or vae_decode.write_vae(Path(folder) / "vae.safetensors"))
        for dtype in arguments.dtype:
            print(f"\n{arguments.size} {dtype}", flush=True)
            measure(bridge, bridge.load_vae(path, dtype), load_latents(arguments), arguments.runs)


def load_latents(arguments):
    import torch
    from safetensors.torch import load_file

    if arguments.latents:
        return load_file(arguments.latents)["latents"][:, :, : CONTEXT + NUM_LATENT_FRAMES].float()
    width, height = (int(side) // 8 for side in arguments.size.split("x"))
    return torch.randn(1, 16, CONTEXT + NUM_LATENT_FRAMES, height, width, generator=torch.Generator().manual_seed(0))


def measure(bridge, vae, latents, runs: int) -> None:
    import torch
    from wan_s2v_pack.wan_s2v_model.constants import TEMPORAL_STRIDE

    num_frames = TEMPORAL_STRIDE * (latents.shape[2] - CONTEXT)

    def decode(warmup: int):
        return bridge.decode_latents(vae, latents[:, :, CONTEXT - warmup :], newest=num_frames)

    expected = None
    for warmup in WARMUPS:
        seconds, frames = timed(lambda warmup=warmup: decode(warmup), runs)
        expected = frames if expected is None else expected
        print(f"warm-up {warmup:2d}           {seconds:7.2f} s   {differences(frames, expected, TEMPORAL_STRIDE)}", flush=True)
    for layer in vae.first_stage_model.modules():
        if isinstance(layer, torch.nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
    seconds, frames = timed(lambda: decode(CONTEXT), runs)
    print(f"channels_last_3d, 19 {seconds:7.2f} s   {differences(frames, expected, TEMPORAL_STRIDE)}", flush=True)


def timed(call: Callable, runs: int):
    """Median seconds behind a run that is not counted, and the last result. Frames arrive on the CPU, so the GPU has finished."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), result


def differences(frames, expected, first: int) -> str:
    difference = LEVELS * (frames - expected).abs()
    mean, of_first, largest = difference.mean(), difference[:first].mean(), difference.max()
    return f"mean difference {mean:.4f}, of the first {first} frames {of_first:.4f}, largest {largest:.2f}"


if __name__ == "__main__":
    main()
