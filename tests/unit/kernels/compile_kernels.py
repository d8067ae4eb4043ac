"""Builds every Triton kernel for a GPU that is not here: `python compile_kernels.py 90 [--once]`. For test_triton_blocks.py.

The kernels are launched as in a forward pass of the 14B model, on tensors without memory; each is compiled instead of run, with --once
in its largest variant only. Of each it prints what the binary says: size, instructions, registers, spilled bytes, and the occupancy.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
COUNTED = ("LDG.E.128", "STG.E.128", "LDG.E.64", "STG.E.64", "LDL", "STL", "MUFU", "HMMA", "FFMA")
REGISTERS, REGISTER_UNIT, WARP, SHARED_RESERVED = 65_536, 256, 32, 1024  # of a multiprocessor; a warp's share is a multiple of the unit
LIMITS = {  # warps and KB of shared memory of a multiprocessor, by compute capability (CUDA's programming guide)
    61: (64, 96),
    70: (64, 96),
    75: (32, 64),
    80: (64, 164),
    86: (48, 100),
    87: (48, 164),
    89: (48, 100),
    90: (64, 228),
    100: (64, 228),
    103: (64, 228),
    120: (48, 100),
    121: (48, 100),
}
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


def compiler(target: GPUTarget, built: list[dict], once: bool):
    """A stand-in for the launch of a kernel that compiles it for `target`, with `once` only the first time."""

    def launch(kernel, *arguments, grid, warmup, num_warps=4, **named):
        if once and any(each["kernel"] == kernel.__name__ for each in built):
            return
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
        found, shared = read_binary(compiled.asm["cubin"]), compiled.metadata.shared
        share = occupancy(target.arch, num_warps, found["registers"], shared)
        built.append({"kernel": kernel.__name__, **found, "shared": shared, "occupancy": share})

    return launch


def read_binary(cubin: bytes) -> dict:
    """What NVIDIA's tools, which come with Triton, say of a binary."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = tool("cuobjdump", "--dump-resource-usage", path)
        opcodes = OPCODE.findall(tool("nvdisasm", "-c", path))  # none for GPUs that are newer than this tool
    numbers = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    kinds = Counter(kind for opcode in opcodes for kind in COUNTED if opcode.startswith(kind))
    return {
        "bytes": len(cubin),
        "instructions": len(opcodes),
        "counted": dict(kinds),
        "registers": numbers["REG"],
        "spilled": numbers["STACK"] + numbers["LOCAL"],
    }


def tool(name: str, *arguments: object) -> str:
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def occupancy(capability: int, num_warps: int, registers: int, shared: int) -> float:
    """Share of the warps of a multiprocessor that can be there at once."""
    most_warps, shared_kb = LIMITS[capability]
    by_registers = REGISTERS // (-(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT) // num_warps
    by_shared = shared_kb * 1024 // (shared + SHARED_RESERVED)
    return min(min(by_registers, by_shared) * num_warps, most_warps) / most_warps


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
        blocks.add_norm(residual, y, rows, residual, (rows, rows, 1.0), y, LENGTH // 2, 1e-6)
        blocks.add_norm(residual, None, None, residual, (rows, rows, 1.0), y, LENGTH // 2, 1e-6)
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
    for gelu, dim in ((True, FFN), (False, DIM)):
        wide = empty(1, LENGTH, dim)
        blocks.quantise_rows(wide, gelu, empty(1, LENGTH, dim, dtype=torch.float8_e4m3fn), scale)
    for bias in (empty(FFN), None):
        blocks.scale_product(empty(LENGTH, FFN), empty(LENGTH, 1, dtype=torch.float32), empty(FFN, 1, dtype=torch.float32), bias)
    for centre in (mean, None):
        blocks.head_peaks(y, centre, HEADS, 7)
        blocks.quantise_heads(y, centre, of_heads, values)


if __name__ == "__main__":
    capability, built = int(sys.argv[1]), []
    triton.runtime.jit.JITFunction.run = compiler(GPUTarget("cuda", capability, WARP), built, once="--once" in sys.argv)
    launch_all(with_float8=capability >= FLOAT8_CAPABILITY)
    print(json.dumps(built))
