"""Latents to tokens and back. A convolution whose stride is its kernel is one product over patches, which leaves the tokens in order."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..constants import MOTION_BUCKETS, MOTION_LATENTS, PATCH_SIZE
from ..kernels.casting import CastWeights, cast_weights, is_changed, run_changed
from .config import WanS2VConfig


def embed_patches(layer: nn.Module, latents: Tensor, cast: CastWeights = cast_weights) -> Tensor:
    """Run a convolution [dim, C, t, h, w] with steps of its size, in the dtype of latents. One that was changed runs as it is.

    Args:
        latents: [B, C, T, H, W]; what does not fill a patch at the end of an axis is left out.
    Returns:
        [B, T//t * H//h * W//w, dim].
    """
    if is_changed(layer):
        return run_changed(layer, latents).flatten(2).transpose(1, 2)  # [B, dim, T, H, W] -> [B, T * H * W, dim]
    with cast(layer, latents) as (weight, bias):
        frames, rows, columns = weight.shape[2:]
        num_frames, height, width = (size // step * step for size, step in zip(latents.shape[2:], weight.shape[2:], strict=True))
        whole = latents[:, :, :num_frames, :height, :width]
        patches = rearrange(whole, "b c (T t) (H h) (W w) -> b (T H W) (c t h w)", t=frames, h=rows, w=columns)
        return F.linear(patches, weight.flatten(1), bias)


def unpatchify(patches: Tensor, num_latent_frames: int, height: int, width: int) -> Tensor:
    """[B, F * h/2 * w/2, 4 * C] -> [B, C, F, h, w]; within a patch the order is row, column, channel."""
    _, rows, columns = PATCH_SIZE
    grid = {"T": num_latent_frames, "H": height // rows, "W": width // columns, "h": rows, "w": columns}
    return rearrange(patches, "b (T H W) (h w c) -> b c T (H h) (W w)", **grid)


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
