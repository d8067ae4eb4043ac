"""Loading and running the full-size model on a card of which only a part is left: seconds and memory, ours and ComfyUI's own S2V model.

    COMFYUI_PATH=... python bench/memory_limits.py --weights /path/with/40/GB --layout bf16 --sizes 832x480 1024x704 --cards 0 24 16 12 8

A smaller card is made by a ballast allocation: what is left, CUDA context included, is what such a card has. 0: the whole card.
Both models run in one process on the same file.
"""

import argparse
import gc
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import full_size

GB = 1e9
EVERYTHING_BYTES = 1e32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint")
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="bf16")
    parser.add_argument("--sizes", nargs="+", choices=full_size.SIZES, default=list(full_size.SIZES))
    parser.add_argument("--cards", nargs="+", type=float, default=[0, 24, 16, 12, 8], help="GB (10^9 bytes)")
    parser.add_argument("--models", nargs="+", choices=("ours", "native"), default=["ours", "native"])
    parser.add_argument("--rounds", type=int, default=3, help="timed model calls at most, after one that is not")
    parser.add_argument("--seconds", type=float, default=10, help="start no further timed call of a row after so long")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--no-offload", action="store_true", help="ours with offload switched off")
    parser.add_argument("--no-prefetch", action="store_true", help="ours without ComfyUI's block prefetch")
    arguments = parser.parse_args()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    if arguments.no_prefetch:
        bridge.model._prefetch = lambda *_: lambda: None
    logging.basicConfig(level=logging.INFO, format="    log: %(message)s", force=True)
    logging.getLogger("comfy_aimdo").setLevel(logging.ERROR)
    path = full_size.checkpoint(arguments.weights, arguments.layout)
    full_size.unload_everything()
    full_size.forget_file(path)
    print(f"raw read of {path.name} from the disk: {full_size.read_seconds(path):.1f} s", flush=True)
    for name in arguments.models:
        measure(name, bridge, path, arguments)


def measure(name: str, bridge, path: Path, arguments) -> None:
    import torch

    with torch.inference_mode():
        model = load_from_disk(name, bridge, path, offload=not arguments.no_offload)
        for size in arguments.sizes:
            resident = None
            for card in arguments.cards:
                seconds = run_on_card(name, model, size, card, arguments)
                resident = resident or seconds
                if seconds and resident:
                    print(f"        {seconds / resident:.3f} of the time on the whole card", flush=True)
        del model
    gc.collect()
    full_size.unload_everything()


def load_from_disk(name: str, bridge, path: Path, offload: bool):
    """Load with a cold page cache and run one call."""
    import comfy.sd

    full_size.forget_file(path)
    start = time.perf_counter()
    model = (
        bridge.load_diffusion_model(str(path), full_size.OPTIONS, offload=offload)
        if name == "ours"
        else comfy.sd.load_diffusion_model(str(path))
    )
    loaded = time.perf_counter() - start
    full_size.use(model)
    full_size.forward(model, full_size.make_inputs("832x480"), new_memory())
    ready = time.perf_counter() - start
    print(
        f"{name}: {path.name}, dynamic {model.is_dynamic()}, computes in {model.model.get_dtype_inference()}; "
        f"loader {loaded:.1f} s, until the end of the first call {ready:.1f} s",
        flush=True,
    )
    return model


def new_memory():
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import ClipMemory

    return ClipMemory()


def run_on_card(name: str, model, size: str, card_gb: float, arguments) -> float | None:
    """Time model calls with so much GPU memory; print a row. Between rows the weights leave the GPU, but not the pinned main memory."""
    import torch

    if model.is_dynamic():
        model.partially_unload(model.offload_device, EVERYTHING_BYTES)
        torch.cuda.empty_cache()
    else:
        full_size.unload_everything()
    free, total = torch.cuda.mem_get_info()
    ballast_bytes = int(total - card_gb * GB) if card_gb else 0
    if ballast_bytes > free:
        print(f"{name:7s} {size:9s} card {card_gb:g} GB: other allocations already take more", flush=True)
        return None
    ballast = torch.empty(ballast_bytes, dtype=torch.uint8, device="cuda")
    memory, inputs, label = new_memory(), full_size.make_inputs(size), f"{card_gb:3g} GB" if card_gb else "whole "
    try:
        with full_size.PeakMemory(ignored_bytes=ballast_bytes) as peak:
            full_size.use(model, memory_required=2 * 2**30)
            results = timed_calls(model, inputs, memory, arguments.rounds, arguments.seconds)
    except torch.OutOfMemoryError as error:
        print(f"{name:7s} {size:9s} card {label}: out of memory ({str(error).splitlines()[0][:90]})", flush=True)
        return None
    finally:
        model.cleanup()
        del ballast, memory, inputs
    seconds, out = sorted(result[0] for result in results), results[-1][1]
    print(
        f"{name:7s} {size:9s} card {label}: {full_size.median_range(seconds)}  peak on the device {peak.bytes / GB:5.2f} GB  "
        f"torch {torch.cuda.max_memory_allocated() / GB - ballast_bytes / GB:5.2f} GB  finite {bool(torch.isfinite(out).all())}",
        flush=True,
    )
    torch.cuda.reset_peak_memory_stats()
    return seconds[len(seconds) // 2]


def timed_calls(model, inputs: dict, memory, rounds: int, seconds: float) -> list:
    full_size.forward(model, inputs, memory)
    results, start = [], time.perf_counter()
    while not results or (len(results) < rounds and time.perf_counter() - start < seconds):
        results.append(full_size.forward(model, inputs, memory))
    return results


if __name__ == "__main__":
    main()
