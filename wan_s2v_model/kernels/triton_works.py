"""Whether the Triton kernels can be built for a device and agree with plain torch; found out once, before the first use."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .self_test import passes

AGREEMENT = 1e-5  # between kernels and torch, on values near 1 in float32
AGREEMENT_BF16 = 5e-2
TENSOR_CORES = (8, 0)  # compute capability from which Triton uses them


@torch.compiler.assume_constant_result  # else torch.compile would trace the self-test
def kernels_work(device: torch.device) -> bool:
    """Whether the Triton kernels can be built for this device and agree with the torch code."""
    return _passes_self_test(device)


@torch.compiler.assume_constant_result
def products_work(device: torch.device) -> bool:
    """Whether the Triton kernels that multiply matrices are of use: before compute capability 8.0 they get no tensor cores and spill."""
    return kernels_work(device) and torch.cuda.get_device_capability(device) >= TENSOR_CORES


@functools.cache
def _passes_self_test(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return passes(
        lambda: _disagreement(device),
        AGREEMENT,
        fails="the fused kernels cannot be built here (%s); the slower torch code runs instead",
        differs="the fused kernels differ by %.1e from the torch code here; the slower torch code runs instead",
    )


def _disagreement(device: torch.device) -> float:
    """The largest difference between kernels and torch code on a small example."""
    from . import triton_blocks, triton_few_keys

    generator = torch.Generator(device).manual_seed(0)
    batch, length, dim, head_dim, split = 2, 12, 1280, 128, 8  # a row of more than one chunk

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    x, y, weight = noise(batch, length, dim), noise(batch, length, dim), 1 + noise(dim) / 8
    gate, scale, shift = noise(batch, 2, dim), noise(batch, 2, dim), noise(batch, 2, dim)
    angle = noise(length, head_dim // 2)
    total, normed, rotated = torch.empty_like(x), torch.empty_like(x), x.clone()
    triton_blocks.add_norm(x, y, gate, total, (scale, shift, 1.0), normed, split, 1e-6)
    triton_blocks.rms_norm_rope(rotated, weight, 1e-6, (angle.cos(), angle.sin()), out=rotated)
    gate, scale, shift = (
        rows.repeat_interleave(torch.tensor([split, length - split], device=device), dim=1) for rows in (gate, scale, shift)
    )
    expected = x + gate * y
    heads = F.rms_norm(x, (dim,), weight, 1e-6).unflatten(-1, (-1, head_dim // 2, 2))  # [B, S, heads, pairs, 2]
    turned = torch.view_as_complex(heads) * torch.polar(torch.ones_like(angle), angle)[:, None]
    pairs = [
        (rotated, torch.view_as_real(turned).flatten(2)),
        (total, expected),
        (normed, F.layer_norm(expected, (dim,), eps=1e-6) * (1 + scale) + shift),
    ]
    if device.type == "cuda":  # elsewhere its GELU is another one
        matrix = noise(dim, 64) / math.sqrt(dim)
        activated = torch._addmm_activation(weight[:64], x[0], matrix, use_gelu=True)
        pairs.append((activated, F.gelu(torch.addmm(weight[:64], x[0], matrix), approximate="tanh")))
        few_keys = triton_few_keys.disagreement(device, torch.bfloat16) * AGREEMENT / AGREEMENT_BF16
        pairs.append((torch.tensor(few_keys), torch.zeros(())))
    return float(torch.stack([(ours - theirs).abs().max().cpu() for ours, theirs in pairs]).max())
