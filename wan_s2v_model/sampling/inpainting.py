"""Samples a part of the latents and keeps the rest: that is given the noise of every step, so that the model sees one noisy video."""

import torch
from torch import Tensor

from ..conditioning.clip import KeptSource


class Inpainting:
    """What is kept in one clip, for any solver.

    Args:
        noise: [1, 16, F, h, w], from which the clip is sampled.
    """

    def __init__(self, kept: KeptSource, noise: Tensor) -> None:
        self._tensors = kept.latents, noise, kept.may_change

    def noised(self, x: Tensor, level: Tensor) -> Tensor:
        """The sample at a noise level [B], with the source at that level where it is kept."""
        source, noise, may_change = self._on(x)
        return torch.where(may_change, x, at_level(source, noise, level))

    def restored(self, x0: Tensor) -> Tensor:
        """Predicted or finished latents, with the source where it is kept."""
        source, _, may_change = self._on(x0)
        return torch.where(may_change, x0, source)

    def _on(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Source, noise and what may change, on the device of the sample; moved once."""
        source, noise, may_change = self._tensors
        if source.device != x.device or source.dtype != x.dtype:
            source, noise, may_change = self._tensors = source.to(x), noise.to(x), may_change.to(x.device)
        return source, noise, may_change


def at_level(latents: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Latents with noise on them: [B, C, F, h, w] at a level [B] or one for all."""
    level = level.to(latents).reshape(-1, *[1] * (latents.ndim - 1))
    return level * noise + (1 - level) * latents
