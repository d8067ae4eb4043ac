"""The pictures that other nodes hand over as IMAGE: [T, H, W, C] in [0, 1]."""

import torch
from torch import Tensor

COLOURS = 3


def require_pictures(**images: Tensor | None) -> None:
    """Check IMAGEs by the names of their inputs; None is an input that is not connected.

    Raises:
        ValueError: one of them holds no colour picture, or NaN or infinite pixels.
    """
    for name, pixels in images.items():
        if pixels is None:
            continue
        if pixels.ndim != 4 or pixels.shape[-1] < COLOURS or pixels.numel() == 0:
            raise ValueError(f"{name} must be an IMAGE with at least one colour picture, got shape {tuple(pixels.shape)}.")
        if not torch.isfinite(pixels).all():
            raise ValueError(f"{name} contains NaN or infinite pixels. Check the node that made it.")
