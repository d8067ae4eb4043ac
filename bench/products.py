"""Every way to multiply and to attend, at full size: seconds and error, rows alternating, medians.

    COMFYUI_PATH=... python bench/products.py                      # a GPU, 35,074 tokens (832x480); two minutes on an H200
    COMFYUI_PATH=... python bench/products.py --size 1024x704
    COMFYUI_PATH=... python bench/products.py --tiny               (a trial on the CPU)

Products: bf16 as the layers compute it; fp8 with scales inside the product (Hopper's default) and behind it, in Triton and in torch;
int8 with the same scales by torch._int_mm, and comfy-kitchen's linear layer, plain and with rotation. Without the rounding of the
tokens, which has a row of its own: on Hopper the norms do it in passing. comfy-kitchen's layers round inside.
Attention: what `attention: auto`, `speed: fp8` and `attention: sage` have for this device, each kernel that is there, with all rounding.
The error is relative, against float64 (products) and float32 (attention) on a sample of tokens, with normal and with loud channels.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime  # noqa: F401 - puts the pack into place for fp8_layers
from fp8_layers import LOUD_CHANNELS, LOUDNESS, SHAPES, TOKENS, start
from rows import replace

ROUNDS, SAMPLE = 7, 256
TINY_SHAPES, TINY_TOKENS, HEAD_DIM = {"256 -> 512": (256, 512)}, 300, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=TOKENS, default="832x480")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device = start()
    import torch

    tokens = TINY_TOKENS if arguments.tiny else TOKENS[arguments.size]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {tokens:,} tokens, medians of {arguments.rounds} alternating rounds")
    torch.manual_seed(0)
    with torch.inference_mode():
        for shape, (width, out) in (TINY_SHAPES if arguments.tiny else SHAPES).items():
            compare_products(shape, tokens, width, out, arguments.rounds, device)
        compare_attention(tokens, 2 if arguments.tiny else 40, arguments.rounds, device)


def seconds_of(run: Callable, device) -> float:
    import time

    import torch

    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def alternating(rows: dict[str, Callable], rounds: int, device) -> dict[str, float]:
    """Median milliseconds of each row; the first round is not counted. A row that fails is left out, and says why."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for index in range(rounds + 1):
        for name in list(times):
            try:
                taken = 1e3 * seconds_of(rows[name], device)
            except (RuntimeError, ValueError, TypeError, AssertionError, ImportError, AttributeError) as error:
                print(f"    {name}: does not run ({str(error).splitlines()[0][:120]})")
                del times[name]
                continue
            if index:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def print_rows(title: str, times: dict[str, float], errors: dict[str, str], flop: float) -> None:
    print(f"\n{title}\n| | ms | TFLOP/s | of the first | error normal / loud |\n|---|---|---|---|---|")
    first = next(iter(times.values()))
    for name, taken in times.items():
        print(f"| {name} | {taken:.3f} | {flop / taken / 1e9:.0f} | {taken / first:.3f} | {errors.get(name, '')} |", flush=True)


# Products


def int8_rows(x):
    """[n, dim] over the largest magnitude of each row, in steps of 1/127."""
    import torch

    scale = x.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (x.float() / scale).round().to(torch.int8), scale


def product_rows(x, weight, bias) -> dict[str, Callable]:
    """The ways, each on inputs that are rounded already."""
    import torch
    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.kernels import products
    from wan_s2v_pack.wan_s2v_model.kernels.linears import quantise_rows

    rows, columns = quantise_rows(x), quantise_rows(weight)
    (tokens8, token_scale), (weight8, weight_scale) = int8_rows(x), int8_rows(weight)

    def behind_in_torch():
        with ExitStack() as stack:
            replace(stack, products, "kernels_work", lambda device: False)
            return products.scaled_behind(rows, columns, bias, torch.bfloat16)

    def in_int8():
        total = torch._int_mm(tokens8, weight8.t())
        return torch.addcmul(bias.float(), total * token_scale, weight_scale.flatten()).bfloat16()

    return {
        "bf16": lambda: F.linear(x, weight, bias),
        "fp8, scales inside": lambda: products.scaled_inside(rows, columns, bias, torch.bfloat16),
        "fp8, scales behind": lambda: products.scaled_behind(rows, columns, bias, torch.bfloat16),
        "fp8, scales behind, in torch": behind_in_torch,
        "int8, torch._int_mm and scales in torch": in_int8,
        "int8, torch._int_mm alone": lambda: torch._int_mm(tokens8, weight8.t()),
        "int8, comfy-kitchen with rounding": lambda: kitchen_linear(x, weight8, weight_scale, bias, rotated=False),
        "int8, comfy-kitchen with rounding and rotation": lambda: kitchen_linear(x, weight8, weight_scale, bias, rotated=True),
        "rounding the tokens to fp8": lambda: quantise_rows(x),
        "rounding the weight to fp8": lambda: quantise_rows(weight),
    }


def kitchen_linear(x, weight8, scale, bias, rotated: bool):
    """ComfyUI's int8 layer. With rotation the weight stands for another one, so only the time of that row counts."""
    import torch
    from comfy_kitchen import int8_linear

    return int8_linear(x, weight8, scale, bias, torch.bfloat16, convrot=rotated)


def product_inputs(tokens: int, width: int, out: int, loud: bool, device):
    import torch

    x = torch.randn(tokens + tokens % 2, width, device=device)
    if loud:
        x[:, :LOUD_CHANNELS] *= LOUDNESS
    weight = torch.randn(out, width, device=device) / math.sqrt(width)
    return x.bfloat16(), weight.bfloat16(), torch.randn(out, device=device).bfloat16()


def compare_products(shape: str, tokens: int, width: int, out: int, rounds: int, device) -> None:
    import torch

    errors: dict[str, list[str]] = {}
    for loud in (True, False):
        x, weight, bias = product_inputs(tokens, width, out, loud, device)
        ways = product_rows(x, weight, bias)
        sample = torch.linspace(0, len(x) - 1, min(SAMPLE, len(x)), device=device).long()
        exact = x[sample].double() @ weight.double().T + bias.double()
        for name, run in ways.items():
            if name.startswith(("bf16", "fp8", "int8")) and not name.endswith(("alone", "rotation")):
                errors.setdefault(name, []).insert(0, error_of(run, sample, exact))
    times = alternating(ways, rounds, device)
    print_rows(shape, times, {name: " / ".join(both) for name, both in errors.items()}, 2 * len(x) * width * out)


def error_of(run: Callable, sample, exact, batch: bool = False) -> str:
    """Relative error of the tokens of a sample; `batch`: the result has an axis for it in front."""
    try:
        result = (run()[0] if batch else run())[sample]
    except (RuntimeError, ValueError, TypeError, AssertionError, ImportError, AttributeError):
        return "-"
    return f"{float((result.double() - exact).norm() / exact.norm()):.2e}"


# Attention


def compare_attention(tokens: int, heads: int, rounds: int, device) -> None:
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.kernels import KERNELS
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa

    kernels = {"PyTorch as it comes": sdpa}
    for kind in KERNELS.values():
        kernels |= {name: kernel.run for name, kernel in kind.items() if device.type == "cuda" and kernel.is_there(device)}
    errors: dict[str, list[str]] = {}
    for offset in (8, 0):  # keys off zero count as loud
        q, k, v = (torch.randn(1, tokens, heads * HEAD_DIM, device=device).bfloat16() for _ in range(3))
        k += offset * torch.randn(heads * HEAD_DIM, device=device).bfloat16()
        sample = torch.linspace(0, tokens - 1, min(SAMPLE, tokens), device=device).long()
        exact = sdpa(q[:, sample].float(), k.float(), v.float(), heads)[0].double()
        for name, run in kernels.items():
            errors.setdefault(name, []).insert(0, error_of(partial(run, q, k, v, heads), sample, exact, batch=True))
    times = alternating({name: partial(run, q, k, v, heads) for name, run in kernels.items()}, rounds, device)
    print_rows("self attention", times, {name: " / ".join(both) for name, both in errors.items()}, 4 * tokens**2 * heads * HEAD_DIM)


if __name__ == "__main__":
    main()
