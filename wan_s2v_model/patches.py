"""Latents to tokens and back. A convolution whose stride is its kernel is one product over patches, which leaves the tokens in order."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .casting import CastWeights, cast_weights, is_changed, run_changed
from .constants import PATCH_SIZE


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
