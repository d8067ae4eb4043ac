"""Packs 19 latents of history into few tokens: the newest at full size, older ones pooled 2x and 4x."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .casting import CastWeights, cast_weights
from .config import WanS2VConfig
from .constants import MOTION_BUCKETS, MOTION_LATENTS
from .patches import embed_patches


class MotionPacker(nn.Module):
    """Three convolutions over the newest 1, the 2 before and the 16 before those latents."""

    def __init__(self, config: WanS2VConfig, *, operations: Any, dtype: torch.dtype | None = None, device: Any = None):
        super().__init__()
        factory = {"dtype": dtype, "device": device}
        channels = config.in_channels, config.dim
        self.proj = operations.Conv3d(*channels, kernel_size=(1, 2, 2), stride=(1, 2, 2), **factory)
        self.proj_2x = operations.Conv3d(*channels, kernel_size=(2, 4, 4), stride=(2, 4, 4), **factory)
        self.proj_4x = operations.Conv3d(*channels, kernel_size=(4, 8, 8), stride=(4, 8, 8), **factory)

    def forward(self, motion_latents: Tensor, cast: CastWeights = cast_weights) -> Tensor:
        """Pack history into tokens, newest bucket first.

        Args:
            motion_latents: [B, 16, T, h, w], oldest first; fewer than 19 are padded with zeros at the old end.
        Returns:
            [B, tokens, dim] in the dtype of motion_latents.
        """
        latents = motion_latents[:, :, -MOTION_LATENTS:]
        latents = F.pad(latents, (0, 0, 0, 0, MOTION_LATENTS - latents.shape[2], 0))
        far, middle, near = latents.split(MOTION_BUCKETS[::-1], dim=2)
        parts = (self.proj, near), (self.proj_2x, middle), (self.proj_4x, far)
        return torch.cat([embed_patches(layer, latents, cast) for layer, latents in parts], dim=1)
