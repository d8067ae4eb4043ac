"""The residual stream: what is added to it waits for the next norm, and is summed up in the same pass over memory."""

import torch
from torch import Tensor

from ..kernels.float8 import Activation
from ..kernels.fused import add_gated, add_then_norm, modulated_norm


class Residual:
    """x, to which layers add in turn.

    An object that changes, so that nobody keeps a tensor which is already part of the sum.

    Args:
        x: [B, S, dim]. split: tokens of the video, which come first; the others have the second row of gates and modulations.
        is_own: nobody else holds x, so it may be overwritten.
    """

    def __init__(self, x: Tensor, split: int, is_own: bool = False):
        self.x = x
        self.split = split
        self._is_own = is_own
        self._y: Tensor | None = None
        self._gate: Tensor | None = None

    def add(self, y: Tensor, gate: Tensor | None = None) -> None:
        """Add gate * y, later: y [B, S, dim], gate [B, 2, dim], or None for 1."""
        self.summed()
        self._y, self._gate = y, gate

    def norm(self, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype, one: float = 1.0) -> Activation:
        """Layer norm * (one + scale) + shift of the sum: shift, scale [B, 1 or 2, dim] -> [B, S, dim] in `dtype`."""
        if self._y is None:
            return modulated_norm(self.x, shift, scale, self.split, eps, dtype, one)
        modulation = shift, scale, one
        self.x, normed = add_then_norm(self.x, self._y, self._gate, modulation, self.split, eps, self._room(), dtype)
        self._settle()
        return normed

    def norm_video(self, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype) -> Activation:
        """`norm` of the video tokens alone, frame by frame: shift, scale [B, F, dim] -> [B, split, dim]."""
        split, frame_tokens = self.split, self.split // shift.shape[1]
        if self._y is None:
            return modulated_norm(self.x[:, :split], shift, scale, frame_tokens, eps, dtype)
        total = self.x if self._is_own else torch.empty_like(self.x)
        gates = (None, None) if self._gate is None else (self._gate[:, :1], self._gate[:, 1:])
        video, others = slice(0, split), slice(split, None)
        modulation = shift, scale, 1.0
        _, normed = add_then_norm(self.x[:, video], self._y[:, video], gates[0], modulation, frame_tokens, eps, total[:, video], dtype)
        if self.x.shape[1] > split:
            add_gated(self.x[:, others], self._y[:, others], gates[1], split, total[:, others])
        self.x = total
        self._settle()
        return normed

    def summed(self) -> Tensor:
        """[B, S, dim] in the dtype of x."""
        if self._y is not None:
            self.x = add_gated(self.x, self._y, self._gate, self.split, self._room())
            self._settle()
        return self.x

    def owned(self) -> Tensor:
        """`summed`, in memory that may be overwritten."""
        x = self.summed()
        self.x, self._is_own = x if self._is_own else x.clone(), True
        return self.x

    def keep_first(self, count: int) -> None:
        """Leave out all tokens but the first."""
        self.x = self.x[:, :count]
        self._y = None if self._y is None else self._y[:, :count]

    def _room(self) -> Tensor | None:
        return self.x if self._is_own else None

    def _settle(self) -> None:
        self._y, self._gate, self._is_own = None, None, True
