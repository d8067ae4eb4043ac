"""Values in float8 with scales: one per row for linear layers, one per head for attention.

Where Triton runs the kernels of `triton_blocks.py` make them; elsewhere torch computes the same values, so that fp8 works without Triton,
and the error of a fast mode can be tested without a GPU. Whether a GPU does it right is found out in `linears.py` before the first use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .row_chunks import row_chunks
from .triton_works import kernels_work

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = 448.0
TINY = 1e-12  # a row of zeros has a scale too
MEAN_STRIDE = 31  # every so many-th token is enough to know what most keys share; odd, so that all columns of the picture take part
PEAK_STRIDE = 7  # and to know how large they are
ROUNDED_ROWS = 2048  # rows that torch rounds at once: their copies in float32 stay small
HEADROOM = 8.0  # a token may be so many times as large as the largest of the sample; floating point loses nothing by it


@dataclass(frozen=True)
class Float8Rows:
    """Stands for `values * scale`; slices and reshapes like a tensor along batch and tokens.

    Attributes:
        values: [..., dim] float8. scale: [..., 1] float32.
    """

    values: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> "Float8Rows":
        """Room for rows of this shape."""
        return cls(torch.empty(shape, dtype=FLOAT8, device=device), torch.empty((*shape[:-1], 1), dtype=torch.float32, device=device))

    @classmethod
    def rounded(cls, x: Tensor, gelu: bool = False) -> "Float8Rows":
        """Each row of [..., dim] over its largest magnitude, after GELU (tanh) where asked, in torch, where no kernel does it."""
        out = cls.empty(tuple(x.shape), x.device)
        rows, values, scale = (tensor.flatten(0, -2) for tensor in (x, out.values, out.scale))
        for chunk in row_chunks(len(rows), ROUNDED_ROWS):
            part = F.gelu(rows[chunk].float(), approximate="tanh") if gelu else rows[chunk].float()
            scale[chunk] = part.abs().amax(dim=-1, keepdim=True).clamp(min=TINY) / FLOAT8_MAX
            values[chunk] = (part / scale[chunk]).to(FLOAT8)
        return out

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def device(self) -> torch.device:
        return self.values.device

    def __getitem__(self, index: Any) -> "Float8Rows":
        return Float8Rows(self.values[index], self.scale[index])

    def flatten(self, start: int, end: int) -> "Float8Rows":
        return Float8Rows(self.values.flatten(start, end), self.scale.flatten(start, end))

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> "Float8Rows":
        return Float8Rows(self.values.unflatten(dim, sizes), self.scale.unflatten(dim, sizes))

    def to(self, dtype: torch.dtype) -> Tensor:
        """The rows as an ordinary tensor."""
        return (self.values.float() * self.scale).to(dtype)


Activation = Tensor | Float8Rows


@dataclass(frozen=True)
class Float8Heads:
    """Stands for `values * scale`: queries, keys or values of attention.

    Attributes:
        values: [B, S, heads, head_dim] float8. scale: [B, heads] float32.
    """

    values: Tensor
    scale: Tensor

    @classmethod
    def rounded(cls, x: Tensor, scale: Tensor) -> "Float8Heads":
        """x [B, S, heads, head_dim] float32 in torch, where no kernel does it; what is too large for `scale` is cut."""
        return cls((x / scale[:, None, :, None]).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale)

    def to(self, dtype: torch.dtype) -> Tensor:
        """As an ordinary tensor [B, S, heads, head_dim]."""
        return (self.values.float() * self.scale[:, None, :, None]).to(dtype)


def quantise_heads(x: Tensor, heads: int, smooth: bool = False, agree: Callable[[Tensor], Tensor] = lambda peak: peak) -> Float8Heads:
    """Float8 with one scale per batch entry and head, from a sample of the tokens.

    Args:
        x: [B, S, heads * head_dim].
        smooth: first subtract the mean of the sample from all. For keys this changes no attention weight and makes the values smaller.
        agree: makes one of the peaks [B, heads] of all who hold some of the tokens.
    Returns:
        x, or x less that mean.
    """
    x = x.contiguous()
    mean = x[:, ::MEAN_STRIDE].mean(dim=1, dtype=torch.float32) if smooth else None
    if kernels_work(x.device):
        from . import triton_blocks

        scale = _scale_of_heads(agree(triton_blocks.head_peaks(x, mean, heads, PEAK_STRIDE).amax(dim=1)))
        values = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
        triton_blocks.quantise_heads(x, mean, scale, values)
        return Float8Heads(values.unflatten(-1, (heads, -1)), scale)
    centred = (x.float() if mean is None else x.float() - mean[:, None]).unflatten(-1, (heads, -1))
    scale = _scale_of_heads(agree(centred[:, ::PEAK_STRIDE].abs().amax(dim=(1, 3))))
    return Float8Heads.rounded(centred, scale)


def round_heads(x: Tensor, scale: Tensor) -> Float8Heads:
    """Float8 with given scales: x [B, S, heads * head_dim], scale [B, heads] float32."""
    heads = scale.shape[1]
    if not kernels_work(x.device):
        return Float8Heads.rounded(x.float().unflatten(-1, (heads, -1)), scale)
    from . import triton_blocks

    values = torch.empty(x.shape, dtype=FLOAT8, device=x.device)
    triton_blocks.quantise_heads(x.contiguous(), None, scale, values)
    return Float8Heads(values.unflatten(-1, (heads, -1)), scale)


def _scale_of_heads(peak: Tensor) -> Tensor:
    return HEADROOM * peak.clamp(min=TINY) / FLOAT8_MAX
