"""Which attention kernel runs, and the proof at first use that it computes attention."""

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..kernels.float8 import FLOAT8, Float8Heads, Float8Rows, quantise_heads
from ..kernels.linears import EXACT, Float8Linears, Linears, float8_works, quantise_rows
from ..kernels.self_test import passes
from ..transformer.blocks import FLOAT8_BEYOND, AttentionFunction, sdpa

logger = logging.getLogger("wan_s2v")
ATTENTIONS = ("auto", "comfyui")
CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
HOPPER = 9  # major compute capability
FEW_KEYS = 1024  # up to here float8 saves nothing: text and sound
TOLERANCE = 2e-2  # of the self-test: bfloat16 results near 1 against float32
KERNEL_ERRORS = (ImportError, RuntimeError, TypeError, ValueError, OSError)
Kernels = dict[str, tuple[AttentionFunction, Callable[[int], bool]]]  # best first, with the compute capabilities they are for
SPEEDS = ("exact", "fp8 linears", "fp8 linears and attention")


TOLERANCE_FLOAT8 = 0.1  # relative, of each head


@comfy_attention.wrap_attn
def _cudnn(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    with sdpa_kernel(CUDNN_FIRST, set_priority=True):
        return sdpa(q, k, v, heads)


@comfy_attention.wrap_attn
def _flash3(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    if q.dtype != torch.bfloat16:  # the wheel has no kernel for others
        return _cudnn(q, k, v, heads)
    from fa3_fwd_interface import flash_attn_func

    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))  # [B, S, D] -> [B, S, H, d]
    return flash_attn_func(q, k, v).flatten(2)


@comfy_attention.wrap_attn
def _flash3_float8(q: Tensor | Float8Heads, k: Tensor | Float8Heads, v: Tensor, heads: int, **_: Any) -> Tensor:
    if v.shape[1] <= FEW_KEYS:
        return _flash3(q, k, v, heads)
    from fa3_fwd_interface import flash_attn_func

    q, k = (t if isinstance(t, Float8Heads) else quantise_heads(t, heads, smooth) for t, smooth in ((q, False), (k, True)))
    values = quantise_heads(v, heads)
    scales = {"q_descale": q.scale, "k_descale": k.scale, "v_descale": values.scale}
    return flash_attn_func(q.values, k.values, values.values, **scales).flatten(2).to(v.dtype)


setattr(_flash3_float8, FLOAT8_BEYOND, FEW_KEYS)


@comfy_attention.wrap_attn
def _sage(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    if k.shape[1] <= FEW_KEYS:
        return _cudnn(q, k, v, heads)
    from sageattention import sageattn

    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))  # [B, S, D] -> [B, S, H, d]
    return sageattn(q, k, v, tensor_layout="NHD").flatten(2)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


KERNELS_FLOAT8: Kernels = {
    "FlashAttention 3 in fp8 (fa3_fwd)": (_flash3_float8, lambda major: major == HOPPER and _installed("fa3_fwd_interface")),
    "SageAttention": (_sage, lambda major: _installed("sageattention")),
}


def pick_attention(name: str, device: torch.device, float8: bool = False) -> AttentionFunction:
    """The kernel for a setting of the model loader.

    `auto` is the fastest exact kernel on NVIDIA Hopper and newer, unless ComfyUI was started with a kernel of the user's choice; everywhere
    else, and with `comfyui`, it is ComfyUI's. With `float8` one that rounds its inputs goes before. Overrides of other nodes apply to all.
    """
    chosen = comfy_attention.optimized_attention
    is_free = name == "auto" and chosen is comfy_attention.attention_pytorch
    if is_free and device.type == "cuda" and comfy.model_management.is_nvidia():
        return _fastest(device, float8) or chosen
    if float8:
        _log_left_alone(name)
    return chosen


@functools.cache
def _log_left_alone(name: str) -> None:
    logger.warning("attention: not in fp8, because %s", "the loader says so" if name == "comfyui" else "ComfyUI decides the kernel here")


@functools.cache
def _fastest(device: torch.device, float8: bool = False) -> AttentionFunction | None:
    major = torch.cuda.get_device_capability(device)[0]
    for name, (kernel, fits) in (KERNELS_FLOAT8 if float8 else KERNELS).items():
        if fits(major) and (computes_in_float8 if float8 else computes_attention)(name, kernel, device):
            logger.info("attention: %s", name)
            return kernel
    if float8:
        logger.warning("attention: no fp8 kernel works here (fa3-fwd on Hopper, or sageattention); it is exact")
        return _fastest(device)
    return None


def computes_attention(name: str, kernel: AttentionFunction, device: torch.device) -> bool:
    """Compare a kernel with plain float32 attention on random values, self attention and five keys; log a failure."""
    generator = torch.Generator(device).manual_seed(0)
    heads, head_dim, length = 2, 128, 300
    q, k, v = (torch.randn(1, length, heads * head_dim, generator=generator, device=device).bfloat16() for _ in range(3))

    def disagreement() -> float:
        differences = []
        for keys in (length, 5):
            seen, values = k[:, :keys], v[:, :keys]
            with sdpa_kernel(SDPBackend.MATH):
                expected = sdpa(q.float(), seen.float(), values.float(), heads)
            differences.append((kernel(q, seen, values, heads).float() - expected).abs().max())
        return float(torch.stack(differences).max())

    return _passes(name, disagreement, TOLERANCE)


def computes_in_float8(name: str, kernel: AttentionFunction, device: torch.device) -> bool:
    """Compare a kernel that rounds its inputs with float32 on heads of unequal size and keys away from zero; log a failure."""
    generator = torch.Generator(device).manual_seed(0)
    heads, head_dim, length = 4, 128, FEW_KEYS + 40
    size = torch.tensor([0.5, 1, 2, 4], device=device)[:, None]
    q, k, v = (torch.randn(2, length, heads, head_dim, generator=generator, device=device) for _ in range(3))
    q, k, v = (t.flatten(2).bfloat16() for t in (q / size, k * size + 4, v * size))
    with sdpa_kernel(SDPBackend.MATH):
        expected = sdpa(q.float(), k.float(), v.float(), heads)

    def disagreement() -> float:
        error = kernel(q, k, v, heads).float() - expected
        wrong, right = (t.square().unflatten(-1, (heads, -1)).sum(dim=(0, 1, 3)) for t in (error, expected))
        return float((wrong / right).max().sqrt())

    return _passes(name, disagreement, TOLERANCE_FLOAT8)


def _passes(name: str, disagreement: Callable[[], float], tolerance: float) -> bool:
    fails, differs = (f"attention: {name} {problem} and is not used" for problem in ("does not run here (%s)", "is wrong by %.1e here"))
    return passes(disagreement, tolerance, fails=fails, differs=differs, errors=KERNEL_ERRORS)


FP8_CAPABILITY = (8, 9)  # GeForce 40, L40, H100 and newer


def pick_linears(speed: str, device: torch.device, dtype: torch.dtype) -> Linears:
    """How the blocks compute their products on this device: as the setting says, or exactly where float8 does not work."""
    return Float8Linears(dtype, comfy_float8_weights) if speed != SPEEDS[0] and _has_float8(device) else EXACT


def wants_float8_attention(speed: str) -> bool:
    return speed == SPEEDS[2]


@functools.cache
def _has_float8(device: torch.device) -> bool:
    is_nvidia = device.type == "cuda" and comfy.model_management.is_nvidia()
    if is_nvidia and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
        return float8_works(device)
    logger.warning("speed: fp8 needs an NVIDIA GPU of compute capability 8.9 or higher (GeForce 40, H100); this run is exact")
    return False


@contextmanager
def comfy_float8_weights(layer: nn.Module, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[Float8Rows, Tensor | None]]:
    """Weight and bias of a ComfyUI layer, LoRA applied, wherever they are stored; a float8 weight of the file stays as it is."""
    types = {"dtype": dtype, "bias_dtype": dtype, "compute_dtype": dtype}
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, device=device, offloadable=True, want_requant=True, **types)
    try:
        yield _as_rows(weight), bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


def _as_rows(weight: Tensor) -> Float8Rows:
    if not isinstance(weight, comfy.ops.QuantizedTensor):
        return quantise_rows(weight)
    values, scale = weight._qdata, weight._params.scale
    if values.dtype != FLOAT8 or scale.numel() != 1:
        return quantise_rows(weight.dequantize())
    return Float8Rows(values, scale.to(values.device, torch.float32).reshape(1, 1).repeat(values.shape[0], 1))


KERNELS: Kernels = {
    "FlashAttention 3 (fa3_fwd)": (_flash3, lambda major: major == HOPPER and _installed("fa3_fwd_interface")),
    "cuDNN": (_cudnn, lambda major: major >= HOPPER),
}
