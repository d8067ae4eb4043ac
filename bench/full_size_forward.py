"""One forward pass of the full-size model through ComfyUI's memory management: ours against ComfyUI's own, one optimisation at a time.

    COMFYUI_PATH=... python bench/full_size_forward.py --weights /path/with/40/GB --pairs 5
    COMFYUI_PATH=... python bench/full_size_forward.py --weights ... --parent CHECKOUT --rows "parent of ours" ours
    COMFYUI_PATH=... python bench/full_size_forward.py --error
    COMFYUI_PATH=... python bench/full_size_forward.py --tiny --legacy --size 64x64 --pairs 1       (a trial on the CPU)

All rows run in one process on one set of weights, alternating. The table gives the median seconds, TFLOP/s by the count of
wan_s2v_model/cost/estimate.py, torch's peak of GPU memory (with dynamic VRAM that leaves out the weights), and the median ratio of the
first row to this one in the same round. With --parent the rows "parent of ..." run the code of another checkout of this pack.
With --error: four layers of full width against float64, on random and on outlier-injected activations (bench/forward_error.py).
"""

import argparse
import importlib
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime
import forward_error
import full_size
from rows import PARENT, PARENT_ROWS, ROWS, Row, switched, told

ALL_ROWS = ROWS | PARENT_ROWS
GB = 1e9
KERNELS_SHOWN = 25


def main() -> None:
    arguments = parse()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch

    with torch.inference_mode():
        if arguments.error:
            forward_error.main(bridge, tiny=arguments.tiny)
            return
        native = load_native(full_size.checkpoint(arguments.weights, arguments.layout, arguments.tiny))
        if arguments.parent is not None:
            comfy_runtime.load_pack(arguments.parent.resolve(), PARENT)
        models = {name: (row_model(native, ALL_ROWS[name]), ALL_ROWS[name]) for name in arguments.rows}
        for size in arguments.size:
            inputs = full_size.make_inputs(size, arguments.tiny)
            results = measure(models, inputs, arguments.pairs)
            for name in arguments.profile:
                profile(name, *models[name], inputs)
            print_table(size, results, teraflop(full_size.config(arguments.tiny), size))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint (32.6 GB)")
    parser.add_argument("--pairs", type=int, default=5, help="rounds behind one that is not counted")
    parser.add_argument("--size", nargs="+", choices=full_size.ALL_SIZES, default=["832x480"])
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="bf16")
    parser.add_argument("--rows", nargs="+", choices=ALL_ROWS, default=list(ROWS), help="the others are compared with the first one")
    parser.add_argument("--profile", nargs="*", choices=ALL_ROWS, default=[], help="of --rows: print their kernels, too")
    parser.add_argument("--parent", type=Path, help="another checkout of this pack, for the rows that begin with `parent of`")
    parser.add_argument("--error", action="store_true", help="errors instead of times")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for a trial on the CPU")
    return parser.parse_args()


def load_native(path: Path):
    """ComfyUI's own model, which computes in bf16 like ours; by itself it prefers fp16."""
    import comfy.sd
    import comfy.supported_models
    import torch

    comfy.supported_models.WAN22_S2V.supported_inference_dtypes = [torch.bfloat16, torch.float32]
    native = comfy.sd.load_diffusion_model(str(path))
    print(f"{path.name}: computes in {native.model.get_dtype_inference()}", flush=True)
    return native


def model_module(row: Row):
    """`comfy_bridge.model` of the checkout that computes a row."""
    return importlib.import_module(f"{row.pack}.wan_s2v_model.comfy_bridge.model")


def row_model(native, row: Row):
    """A MODEL on the weights of the native one."""
    if row.native:
        return native.clone()
    model = model_module(row).with_s2v_forward(native)
    keywords = model.object_patches["diffusion_model._forward"].keywords
    keywords["transformer"].residual_dtype = model_module(row).PRECISIONS[row.precision]
    keywords.update(attention_name=row.attention, speed=row.speed)
    return model


@dataclass
class Measured:
    """Seconds of each round, torch's peak without the weights, what is kept for the clip (part of it), and the last output."""

    seconds: list[float]
    bytes: int = 0
    constant_bytes: int = 0
    out: object = None


def measure(models: dict, inputs: dict, pairs: int) -> dict[str, Measured]:
    """Alternate all rows; the first round is not counted."""
    results = {name: Measured([]) for name in models}
    options_of = {name: told(inputs, row) for name, (_, row) in models.items()}
    memories = {name: model_module(row).ClipMemory() for name, (_, row) in models.items()}
    for round_index in range(pairs + 1):
        for name, (model, row) in models.items():
            measured = results[name]
            full_size.use(model)
            before = reset_peak()
            with switched(row):
                given, options = options_of[name]
                seconds, out = full_size.forward(model, given, memories[name], options)
            model.cleanup()
            measured.out = out.cpu()
            del out
            if round_index:
                measured.seconds.append(seconds)
                measured.bytes = max(measured.bytes, peak_bytes() - before + measured.constant_bytes)
            else:
                measured.constant_bytes = allocated_bytes() - before
            print(f"    round {round_index}: {name} {seconds:.3f} s", flush=True)
    return results


def reset_peak() -> int:
    """Forget the peak so far; bytes that torch holds now."""
    if full_size.device() == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    return allocated_bytes()


def allocated_bytes() -> int:
    import torch

    return torch.cuda.memory_allocated() if full_size.device() == "cuda" else 0


def peak_bytes() -> int:
    import torch

    return torch.cuda.max_memory_allocated() if full_size.device() == "cuda" else 0


def profile(name: str, model, row: Row, inputs: dict) -> None:
    """Print the kernels of one more forward by their time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    memory = model_module(row).ClipMemory()
    full_size.use(model)
    with switched(row):
        full_size.forward(model, inputs, memory)  # constants of the clip
        with record(activities=[ProfilerActivity.CPU if full_size.device() == "cpu" else ProfilerActivity.CUDA]) as profiler:
            full_size.forward(model, inputs, memory)
    model.cleanup()
    kernels = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in kernels)
    print(f"\n{name}: {total / 1e6:.3f} s in kernels")
    for event in kernels[:KERNELS_SHOWN]:
        print(f"    {event.self_device_time_total / 1e3:9.1f} ms {event.count:6d} x  {event.key[:110]}")


def print_table(size: str, results: dict[str, Measured], flop: float) -> None:
    import torch

    first = next(iter(results))
    print(f"\n{size:34s}{'seconds (min to max)':30s}{'TFLOP/s':>9s}{'GB above weights':>18s}   {first} / this")
    for name, measured in results.items():
        ratios = [a / b for a, b in zip(results[first].seconds, measured.seconds, strict=True)]
        difference = (measured.out - results[first].out).norm() / results[first].out.norm()
        print(
            f"{name:34s}{full_size.median_range(measured.seconds):30s}{flop / statistics.median(measured.seconds):9.1f}"
            f"{measured.bytes / GB:18.2f}   {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})   "
            f"differs from {first} by {difference:.1e}, finite {bool(torch.isfinite(measured.out).all())}"
        )


def teraflop(config, size: str) -> float:
    """Of one model call in a later clip."""
    from wan_s2v_pack.wan_s2v_model.cost.estimate import model_flop, num_tokens

    height, width = full_size.ALL_SIZES[size]
    frames = full_size.NUM_LATENT_FRAMES
    return sum(model_flop(config, num_tokens(frames, height, width, with_motion=True), frames * (height // 2) * (width // 2))) / 1e12


if __name__ == "__main__":
    main()
