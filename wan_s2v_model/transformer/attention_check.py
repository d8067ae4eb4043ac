"""What an attention kernel gives against plain attention in float32, on small examples: the figures of the self-tests."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .blocks import AttentionFunction, sdpa

HEAD_DIM = 128
FEW_KEYS = 1024  # up to here a kernel that rounds saves nothing: text and sound
LENGTH, SOUND_KEYS = 300, 5


def largest_difference(kernel: AttentionFunction, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Of an exact kernel, on random values in `dtype`: with as many keys as queries, and with five."""
    generator = torch.Generator(device).manual_seed(0)
    heads = 2
    q, k, v = (torch.randn(1, LENGTH, heads * HEAD_DIM, generator=generator, device=device).to(dtype) for _ in range(3))
    differences = []
    for keys in (LENGTH, SOUND_KEYS):
        seen, values = k[:, :keys], v[:, :keys]
        with sdpa_kernel(SDPBackend.MATH):
            expected = sdpa(q.float(), seen.float(), values.float(), heads)
        differences.append((kernel(q, seen, values, heads).float() - expected).abs().max())
    return float(torch.stack(differences).max())


def rounding_error(kernel: AttentionFunction, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """The largest relative error of a head, of a kernel that rounds its inputs: heads of unequal size, keys away from zero."""
    generator = torch.Generator(device).manual_seed(0)
    heads, length = 4, FEW_KEYS + 40
    size = torch.tensor([0.5, 1, 2, 4], device=device)[:, None]
    q, k, v = (torch.randn(2, length, heads, HEAD_DIM, generator=generator, device=device) for _ in range(3))
    q, k, v = (t.flatten(2).to(dtype) for t in (q / size, k * size + 4, v * size))
    with sdpa_kernel(SDPBackend.MATH):
        expected = sdpa(q.float(), k.float(), v.float(), heads)
    error = kernel(q, k, v, heads).float() - expected
    wrong, right = (t.square().unflatten(-1, (heads, -1)).sum(dim=(0, 1, 3)) for t in (error, expected))
    return float((wrong / right).max().sqrt())
