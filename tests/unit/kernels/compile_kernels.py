"""Builds every Triton kernel for a GPU that is not here: `python compile_kernels.py CAPABILITY`, e.g. 90. For test_triton_blocks.py.

The kernels are launched as in a forward pass of the 14B model, on tensors without memory; each is compiled instead of run.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FOLDER = Path(__file__).resolve().parents[3] / "wan_s2v_model" / "kernels"
FLOAT8_CAPABILITY = 89
LENGTH, DIM, FFN, HEADS, FRAMES, KEYS = 35_074, 5120, 13_824, 40, 20, 5
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float8_e4m3fn: "*fp8e4nv", int: "i32", float: "fp32"}
WIDTH = 16  # bytes at which Triton takes addresses for aligned


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiler(target: GPUTarget, built: list[str]):
    """A stand-in for the launch of a kernel that compiles it for `target`."""

    def launch(kernel, *arguments, grid, warmup, num_warps=4, **named):
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
        constants = {p.name: values[p.name] for p in kernel.params if p.is_constexpr or is_one(values[p.name])}
        types = {
            name: "constexpr" if name in constants else TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)]
            for name, value in values.items()
        }
        aligned = [
            (index,)
            for index, name in enumerate(kernel.arg_names)
            if types[name].startswith("*") or (types[name] == "i32" and values[name] % WIDTH == 0)
        ]
        source = ASTSource(kernel, types, constants, {place: [["tt.divisibility", WIDTH]] for place in aligned})
        compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
        built.append(f"{kernel.__name__}, {len(compiled.asm['cubin'])} bytes")

    return launch


def is_one(value: object) -> bool:
    """Triton makes a constant of it."""
    return isinstance(value, int) and value == 1


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def launch_all(with_float8: bool) -> None:
    blocks, few_keys = load("triton_blocks"), load("triton_few_keys")
    x, y, weight = empty(1, LENGTH, DIM, dtype=torch.float32), empty(1, LENGTH, DIM), empty(DIM)
    rows, rope = empty(1, 2, DIM, dtype=torch.float32), (empty(LENGTH, 64, dtype=torch.float32),) * 2
    blocks.rms_norm_rope(y, weight, 1e-6, rope, out=y)
    blocks.rms_norm_rope(y, weight, 1e-6, None, out=y)
    for residual in (x, y):
        blocks.add_norm(residual, None, None, residual, (rows, rows, 1.0), y, LENGTH // 2, 1e-6)
        blocks.add_norm(residual, y, rows, residual, (rows, rows, 1.0), y, LENGTH // 2, 1e-6)
        blocks.add_norm(residual, y, rows, residual, None, None, LENGTH // 2, 1e-6)
    few_keys.weights_of_keys(empty(FRAMES, LENGTH // FRAMES, DIM), empty(FRAMES, KEYS, DIM), HEADS)
    if not with_float8:
        return
    values, scale = empty(1, LENGTH, DIM, dtype=torch.float8_e4m3fn), empty(1, LENGTH, 1, dtype=torch.float32)
    mean, of_heads = empty(1, DIM, dtype=torch.float32), empty(1, HEADS, dtype=torch.float32)
    wide_weight = empty(DIM, dtype=torch.float32)
    blocks.rms_norm_rope(y, wide_weight, 1e-6, rope, out=empty(1, LENGTH // 7, DIM), stride=7)
    blocks.rms_norm_rope(y, wide_weight, 1e-6, rope, out=values)
    blocks.rms_norm_rope(y, wide_weight, 1e-6, rope, out=values, mean=mean)
    blocks.add_norm(x, y, rows, x, (rows, rows, 1.0), values, LENGTH // 2, 1e-6, scale)
    blocks.add_norm(x, None, None, x, (rows, rows, 1.0), values, LENGTH // 2, 1e-6, scale)
    for gelu, dim in ((False, DIM), (True, FFN)):
        wide = empty(1, LENGTH, dim)
        blocks.quantise_rows(wide, gelu, empty(1, LENGTH, dim, dtype=torch.float8_e4m3fn), scale)
    for centre in (None, mean):
        blocks.head_peaks(y, centre, HEADS, 7)
        blocks.quantise_heads(y, centre, of_heads, values)


if __name__ == "__main__":
    capability, built = int(sys.argv[1]), []
    triton.runtime.jit.JITFunction.run = compiler(GPUTarget("cuda", capability, 32), built)
    launch_all(with_float8=capability >= FLOAT8_CAPABILITY)
    print(json.dumps(built))
