"""Which attention kernel runs, and the proof at first use that it computes attention."""

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention as comfy_attention
import comfy.model_management
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..attention import AttentionFunction, sdpa

logger = logging.getLogger("wan_s2v")

ATTENTIONS = ("auto", "comfyui")
CUDNN_FIRST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
HOPPER = 9  # major compute capability
TOLERANCE = 2e-2  # of the self-test: bfloat16 results near 1 against float32
KERNEL_ERRORS = (ImportError, RuntimeError, TypeError, ValueError, OSError)


@comfy_attention.wrap_attn
def _cudnn(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    with sdpa_kernel(CUDNN_FIRST, set_priority=True):
        return sdpa(q, k, v, heads)


@comfy_attention.wrap_attn
def _flash3(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    from fa3_fwd_interface import flash_attn_func

    if q.dtype != torch.bfloat16:  # the wheel has no kernel for others
        return _cudnn(q, k, v, heads)
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))  # [B, S, D] -> [B, S, H, d]
    return flash_attn_func(q, k, v).flatten(2)


KERNELS: dict[str, tuple[AttentionFunction, Callable[[int], bool]]] = {  # best first, with the compute capabilities they are for
    "FlashAttention 3 (fa3_fwd)": (_flash3, lambda major: major == HOPPER and importlib.util.find_spec("fa3_fwd_interface") is not None),
    "cuDNN": (_cudnn, lambda major: major >= HOPPER),
}


def pick_attention(name: str, device: torch.device) -> AttentionFunction:
    """The kernel for a setting of the model loader.

    `auto` is the fastest exact kernel on NVIDIA Hopper and newer, unless ComfyUI was started with a kernel of the user's choice; everywhere
    else, and with `comfyui`, it is ComfyUI's. Overrides of other nodes apply to all of them.
    """
    chosen = comfy_attention.optimized_attention
    is_free = chosen is comfy_attention.attention_pytorch
    if name == "auto" and is_free and device.type == "cuda" and comfy.model_management.is_nvidia():
        return _fastest(device) or chosen
    return chosen


@functools.cache
def _fastest(device: torch.device) -> AttentionFunction | None:
    major = torch.cuda.get_device_capability(device)[0]
    for name, (kernel, fits) in KERNELS.items():
        if fits(major) and computes_attention(name, kernel, device):
            logger.info("attention: %s", name)
            return kernel
    return None


def computes_attention(name: str, kernel: AttentionFunction, device: torch.device) -> bool:
    """Compare a kernel with plain float32 attention on random values, self attention and five keys; log a failure."""
    generator = torch.Generator(device).manual_seed(0)
    heads, head_dim, length = 2, 128, 300
    q, k, v = (torch.randn(1, length, heads * head_dim, generator=generator, device=device).bfloat16() for _ in range(3))
    try:
        for keys in (length, 5):
            seen, values = k[:, :keys], v[:, :keys]
            with sdpa_kernel(SDPBackend.MATH):
                expected = sdpa(q.float(), seen.float(), values.float(), heads)
            difference = float((kernel(q, seen, values, heads).float() - expected).abs().max())
            if not difference <= TOLERANCE:
                logger.warning("attention: %s is wrong by %.1e here and is not used", name, difference)
                return False
    except KERNEL_ERRORS as error:
        logger.warning("attention: %s does not run here (%s) and is not used", name, str(error).partition("\n")[0])
        return False
    return True
