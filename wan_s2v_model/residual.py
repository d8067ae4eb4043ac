"""The residual stream: what is added to it waits for the next norm, and is summed up in the same pass over memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fused import add_gated, add_then_norm, modulated_norm
from .quantised import Activation


@dataclass(frozen=True)
class Residual:
    """Stands for `x + gate * y`. Each one is used once, since making the sum may overwrite x.

    Attributes:
        x: [B, S, dim]. split: tokens of the video, which come first; the others have the second row of gates and modulations.
        y: [B, S, dim], or None where nothing waits. gate: [B, 2, dim], or None for 1.
        is_own: nobody else holds x.
    """

    x: Tensor
    split: int
    y: Tensor | None = None
    gate: Tensor | None = None
    is_own: bool = False

    def plus(self, y: Tensor, gate: Tensor | None = None) -> Residual:
        """Add y, later."""
        return Residual(self.summed(), self.split, y, gate, self.is_own or self.y is not None)

    def norm(self, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype, one: float = 1.0) -> tuple[Residual, Activation]:
        """The stream with its sum made, and the sum's layer norm * (one + scale) + shift: shift, scale [B, 1 or 2, dim] -> [B, S, dim]."""
        if self.y is None:
            return self, modulated_norm(self.x, shift, scale, self.split, eps, dtype, one)
        out = self.x if self.is_own else None
        total, normed = add_then_norm(self.x, self.y, self.gate, (shift, scale, one), self.split, eps, out, dtype)
        return Residual(total, self.split, is_own=True), normed

    def first(self, count: int) -> Residual:
        """The first tokens."""
        return Residual(self.x[:, :count], self.split, None if self.y is None else self.y[:, :count], self.gate, self.is_own)

    def summed(self) -> Tensor:
        """[B, S, dim] in the dtype of x."""
        return self.x if self.y is None else add_gated(self.x, self.y, self.gate, self.split, self.x if self.is_own else None)

    def owned(self) -> Tensor:
        """`summed`, in memory that may be overwritten."""
        return self.x.clone() if self.y is None and not self.is_own else self.summed()
