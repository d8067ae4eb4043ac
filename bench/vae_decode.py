"""The full-size VAE with random weights: decoding a later clip (19 + 20 latents) and encoding its history (73 frames).

    COMFYUI_PATH=... python bench/vae_decode.py

Each row is one run behind a short warm-up: seconds, torch's peak without what was allocated before (weights), the same per pixel in bytes
and in values (the figures in wan_s2v_model/cost/vae_memory.py), and the largest difference from the whole picture.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime

NUM_LATENTS = 39
NUM_FRAMES = 73
SHORT = {"decode": 3, "encode": 9}  # latents or frames: one, then two parts
TILE_SHARE = 0.4  # of the memory for the whole picture that tiles may take
FULL_SIZE = {"dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs="+", default=["832x480", "1024x704"], help="pixels, multiples of 64")
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--latents", type=int, default=NUM_LATENTS)
    parser.add_argument("--frames", type=int, default=NUM_FRAMES)
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = write_vae(Path(folder) / "vae.safetensors")
        for dtype in arguments.dtype:
            vae = bridge.load_vae(path, dtype)
            for size in arguments.size:
                width, height = (int(side) // 8 for side in size.split("x"))
                print(f"\n{size} {dtype}", flush=True)
                measure(vae, "decode", torch.randn(1, 16, arguments.latents, height, width), bridge.decode_latents)
                measure(vae, "encode", torch.rand(arguments.frames, 8 * height, 8 * width, 3), bridge.encode_pixels)


def write_vae(path: Path) -> str:
    import torch
    from comfy.ldm.wan.vae import WanVAE
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({name: torch.randn_like(tensor) * 0.03 for name, tensor in WanVAE(**FULL_SIZE).state_dict().items()}, path)
    return str(path)


def measure(vae, name: str, data, call: Callable) -> None:
    """Run ours whole and in tiles; then what takes long on a short clip: ComfyUI's call, the smallest tiles, a picture."""
    decodes = name == "decode"
    short, picture = (data[:, :, : SHORT[name]], data[:, :, :1]) if decodes else (data[: SHORT[name]], data[:1])
    height, width = data.shape[-2:] if decodes else (side // 8 for side in data.shape[1:3])
    tiles, smallest = tile_grids(height, width)

    def run(label: str, call: Callable, expected=None):
        return row(f"{name}  {label:26s}", call, 64 * height * width, vae.vae_dtype.itemsize, expected)

    for grid in ((1, 1), tiles):
        call(vae, short, grid)
    whole = run("whole picture", lambda: call(vae, data, (1, 1)))
    run("{}x{} tiles".format(*tiles), lambda: call(vae, data, tiles), whole)
    whole = run("short, whole picture", lambda: call(vae, short, (1, 1)))
    run("short, ComfyUI", lambda: comfyui_call(vae, name, short), whole)
    run("short, {}x{} tiles".format(*smallest), lambda: call(vae, short, smallest), whole)
    run("one picture", lambda: call(vae, picture, (1, 1)))


def tile_grids(height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tiles that fit into a share of the memory, and the smallest tiles."""
    from wan_s2v_pack.wan_s2v_model.cost.vae_tiles import grids, tile_area

    choices = grids(height, width)
    return next(grid for grid in choices if tile_area(height, width, grid) <= TILE_SHARE * height * width), choices[-1]


def comfyui_call(vae, name: str, data):
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.runtime import LATENT_FORMAT

    if name == "decode":
        return vae.decode(LATENT_FORMAT.process_out(data))[0].cpu()
    return LATENT_FORMAT.process_in(vae.encode(data).cpu())


def row(label: str, call: Callable, num_pixels: int, value_bytes: int, expected=None):
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start = time.perf_counter()
    result = call()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() - before
    difference = "" if expected is None else f"   largest difference {largest_difference(result, expected):.2e}"
    per_pixel = f"{peak / num_pixels:7.0f} B = {peak / num_pixels / value_bytes:5.0f} values per pixel"
    print(f"{label} {seconds:6.2f} s   {peak / 2**30:5.2f} GiB   {per_pixel}{difference}", flush=True)
    return result


def largest_difference(result, expected) -> float:
    """One frame after the other, since whole clips are large."""
    return max(float((one - other).abs().max()) for one, other in zip(result, expected, strict=True))


if __name__ == "__main__":
    main()
