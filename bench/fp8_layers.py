"""The fp8 modes piece by piece: error of products and of attention on random and on loud activations, seconds of every kernel.

    COMFYUI_PATH=... python bench/fp8_layers.py

Under a minute on an H100. Without a GPU it prints the errors only, of the same float8 values multiplied in float32.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # an isolated Python leaves this folder out

import comfy_runtime

DIM, FFN, HEADS = 5120, 13824, 40
SHAPES = {"5120 -> 5120": (DIM, DIM), "5120 -> 13824": (DIM, FFN), "13824 -> 5120": (FFN, DIM)}
TOKENS = {"832x480": 35_074, "1024x704": 63_360}
ERROR_TOKENS, ERROR_HEADS = 1024, 2
LOUD_CHANNELS, LOUDNESS = 8, 100
ROUNDS = 10
INT8_TOKENS = 64  # that share a step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs="+", choices=TOKENS, default=list(TOKENS))
    arguments = parser.parse_args()
    device = start()
    import torch

    torch.manual_seed(0)
    with torch.inference_mode():
        product_errors(device)
        attention_errors(device)
        for size in arguments.size if device.type == "cuda" else ():
            print(f"\n{size}, {TOKENS[size]:,} tokens")
            time_products(TOKENS[size], device)
            time_passes(TOKENS[size], device)
            time_attention(TOKENS[size], device)


def start():
    """ComfyUI and the pack, with a GPU or without; returns the device."""
    import torch

    sys.path.insert(0, os.environ.get("COMFYUI_PATH", str(comfy_runtime.ROOT / ".comfyui")))
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    comfy_runtime.start(dynamic_vram=False)
    return torch.device("cpu" if args.cpu else "cuda")


def relative_error(ours, exact) -> float:
    return float((ours.float() - exact).norm() / exact.norm())


def activations(kind: str, dim: int, device):
    """Bfloat16 tokens: normal, or with some channels a hundred times as loud, as trained transformers have them."""
    import torch

    x = torch.randn(ERROR_TOKENS, dim, device=device)
    if kind == "loud channels":
        x[:, :LOUD_CHANNELS] *= LOUDNESS
    return x.bfloat16()


def product_errors(device) -> None:
    """Against float32 products of the same bfloat16 inputs."""
    import torch
    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.kernels.float8 import FLOAT8_MAX, Float8Rows
    from wan_s2v_pack.wan_s2v_model.kernels.linears import product, quantise_rows
    from wan_s2v_pack.wan_s2v_model.kernels.products import BEHIND, WAYS

    print("relative error           bf16      fp8 by rows  scales behind  fp8 by tensor")
    for name, (width, out) in SHAPES.items():
        weight = (torch.randn(out, width, device=device) / math.sqrt(width)).bfloat16()
        for kind in ("random", "loud channels"):
            x = activations(kind, width, device)
            exact = x.float() @ weight.float().T
            scale = (x.abs().max() / FLOAT8_MAX).float()
            by_tensor = Float8Rows((x.float() / scale).to(torch.float8_e4m3fn), scale.repeat(len(x), 1))
            rows, columns = quantise_rows(x), quantise_rows(weight)
            ways = (product, rows), (WAYS[BEHIND], rows), (product, by_tensor)
            results = F.linear(x, weight), *(way(values, columns, None, torch.bfloat16) for way, values in ways)
            errors = "  ".join(f"{relative_error(result, exact):11.2e}" for result in results)
            print(f"{name:14s} {kind:14s} {errors}", flush=True)


def attention_errors(device) -> None:
    """Of rounded inputs (weights exact), and of the kernel where there is one, against float32 attention of the same bfloat16 inputs."""
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.kernels import KERNELS, _flash3_float8, _is_hopper
    from wan_s2v_pack.wan_s2v_model.kernels.float8 import quantise_heads
    from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa

    def rounded(x, smooth):
        return quantise_heads(x, ERROR_HEADS, smooth).to(torch.float32).flatten(2)

    has_kernel = _is_hopper(device) and next(iter(KERNELS["fp8"].values())).is_there(device)
    for kind, offset in (("random", 0), ("keys off zero", 8)):
        q, k, v = (torch.randn(1, 4 * ERROR_TOKENS, ERROR_HEADS * 128, device=device).bfloat16() for _ in range(3))
        k = k + offset * torch.randn(ERROR_HEADS * 128, device=device).bfloat16()
        exact = sdpa(q.float(), k.float(), v.float(), ERROR_HEADS)
        results = {"bf16": sdpa(q, k, v, ERROR_HEADS)}
        for name, smooth in (("rounded", False), ("rounded, smoothed", True)):
            results[name] = sdpa(rounded(q, False), rounded(k, smooth), rounded(v, False), ERROR_HEADS)
        results["int8 q and k"] = sdpa(in_int8(q, False), in_int8(k, True), v.float(), ERROR_HEADS)
        if has_kernel:
            results["kernel"] = _flash3_float8(q, k, v, ERROR_HEADS)
        errors = "  ".join(f"{name} {relative_error(result, exact):.2e}" for name, result in results.items())
        print(f"attention {kind:14s} {errors}", flush=True)


def in_int8(x, smooth: bool):
    """[B, S, heads * 128] in steps of 1/127 of the largest value in 64 tokens of a head, as SageAttention rounds queries and keys."""
    blocks = x.float() - (x.float().mean(dim=1, keepdim=True) if smooth else 0)
    blocks = blocks.unflatten(2, (ERROR_HEADS, -1)).unflatten(1, (-1, INT8_TOKENS))  # [B, blocks, tokens, heads, d]
    step = blocks.abs().amax(dim=(2, 4), keepdim=True) / 127
    return ((blocks / step).round() * step).flatten(1, 2).flatten(2)


def milliseconds(run: Callable) -> float:
    """Median time on the GPU."""
    import torch

    times = []
    for _ in range(ROUNDS + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[2:])


def report(name: str, run: Callable, flop: float = 0, moved_bytes: float = 0) -> None:
    """Print the time and the rate that it means."""
    taken = milliseconds(run)
    rate = f"{flop / taken / 1e9:7.0f} TFLOP/s" if flop else f"{moved_bytes / taken / 1e9:7.2f} TB/s"
    print(f"    {name:44s} {taken:9.3f} ms {rate}", flush=True)


def time_products(tokens: int, device) -> None:
    import torch
    import torch.nn.functional as F
    from wan_s2v_pack.wan_s2v_model.kernels.linears import product, quantise_rows

    one = torch.ones((), device=device)
    for name, (width, out) in SHAPES.items():
        x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
        weight = torch.randn(out, width, device=device, dtype=torch.bfloat16) / math.sqrt(width)
        bias = torch.randn(out, device=device, dtype=torch.bfloat16)
        rows, columns, flop = quantise_rows(x), quantise_rows(weight), 2 * tokens * width * out
        by_tensor = {"scale_a": one, "scale_b": one, "bias": bias, "out_dtype": torch.bfloat16, "use_fast_accum": True}
        report(f"{name} bf16", lambda x=x, w=weight, b=bias: F.linear(x, w, b), flop)
        report(f"{name} fp8 by rows", lambda x=rows, w=columns, b=bias: product(x, w, b, torch.bfloat16), flop)
        report(f"{name} fp8 by tensor", lambda x=rows, w=columns, o=by_tensor: torch._scaled_mm(x.values, w.values.t(), **o), flop)
        report(f"{name} rounding the weight", lambda w=weight: quantise_rows(w), moved_bytes=3 * weight.numel())


def time_passes(tokens: int, device) -> None:
    """What stands between the products."""
    import torch
    from wan_s2v_pack.wan_s2v_model.kernels.float8 import FLOAT8, quantise_heads
    from wan_s2v_pack.wan_s2v_model.kernels.fused import add_then_norm, modulated_norm, rms_norm_rope, rms_norm_rope_float8
    from wan_s2v_pack.wan_s2v_model.kernels.linears import quantise_rows

    x = torch.randn(1, tokens, DIM, device=device)
    y, hidden = x.bfloat16(), torch.randn(1, tokens, FFN, device=device, dtype=torch.bfloat16)
    shift, scale = torch.randn(2, 1, 2, DIM, device=device)
    split = tokens * 8 // 9
    for dtype, size in ((torch.bfloat16, 2), (FLOAT8, 1)):
        name = f"to {str(dtype).removeprefix('torch.')}"
        norm = {"group_size": split, "eps": 1e-6, "dtype": dtype}
        report(f"norm, {name}", lambda n=norm: modulated_norm(x, shift, scale, **n), moved_bytes=(4 + size) * x.numel())
        report(
            f"sum and norm, {name}",
            lambda n=norm: add_then_norm(x, y, None, (shift, scale, 1.0), out=x, **n),
            moved_bytes=(10 + size) * x.numel(),
        )
    report("rounding rows", lambda: quantise_rows(y), moved_bytes=3 * y.numel())
    report("GELU and rounding rows", lambda: quantise_rows(hidden, gelu=True), moved_bytes=3 * hidden.numel())
    report("rounding heads (q or v)", lambda: quantise_heads(y, HEADS), moved_bytes=5 * y.numel())
    report("rounding heads, smoothed (k)", lambda: quantise_heads(y, HEADS, smooth=True), moved_bytes=5 * y.numel())
    angle, weight = torch.randn(tokens, DIM // HEADS // 2, device=device), torch.randn(DIM, device=device, dtype=torch.bfloat16)
    norm = {"weight": weight, "eps": 1e-6, "rope": (angle.cos(), angle.sin())}
    report("norm and rotation in place", lambda: rms_norm_rope(y, **norm), moved_bytes=4 * y.numel())
    report("norm, rotation, rounding (q)", lambda: rms_norm_rope_float8(y, **norm, heads=HEADS), moved_bytes=3 * y.numel())
    smoothed = {**norm, "heads": HEADS, "smooth": True}
    report("norm, rotation, rounding, smoothed (k)", lambda: rms_norm_rope_float8(y, **smoothed), moved_bytes=3 * y.numel())


def time_attention(tokens: int, device) -> None:
    import torch
    from wan_s2v_pack.wan_s2v_model.comfy_bridge.kernels import _cudnn, _flash3, _flash3_float8, _installed
    from wan_s2v_pack.wan_s2v_model.kernels.float8 import quantise_heads

    q, k, v = (torch.randn(1, tokens, DIM, device=device, dtype=torch.bfloat16) for _ in range(3))
    flop = 4 * tokens**2 * DIM
    report("attention cuDNN bf16", lambda: _cudnn(q, k, v, HEADS), flop)
    if not _installed("fa3_fwd_interface"):
        return
    from fa3_fwd_interface import flash_attn_func

    rounded = [quantise_heads(x, HEADS, smooth) for x, smooth in ((q, False), (k, True), (v, False))]
    scales = {name: heads.scale for name, heads in zip(("q_descale", "k_descale", "v_descale"), rounded, strict=True)}
    report("attention fa3 bf16", lambda: _flash3(q, k, v, HEADS), flop)
    report("attention fa3 fp8, kernel", lambda: flash_attn_func(*(heads.values for heads in rounded), **scales), flop)
    report("attention fa3 fp8, with rounding", lambda: _flash3_float8(q, k, v, HEADS), flop)


if __name__ == "__main__":
    main()
