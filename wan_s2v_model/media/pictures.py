"""The pictures that other nodes hand over as IMAGE: [batch, height, width, channels] in 0..1."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger("wan_s2v")

COLOURS = 3
LEVELS = 255
GREY_CHANNELS = (1, 2)  # without and with alpha
COLOUR_CHANNELS = (3, 4)
OVERSHOOT = 4.0  # times white, up to which a float picture is one of 0..1 with values that an upscaler or a VAE let run out
MASK_WANTED = "must be a MASK: [batch, height, width] in 0..1"
WANTED = "must be an IMAGE with at least one colour picture: [batch, height, width, 3] in 0..1"


def read_pictures(name: str, images: Any) -> Tensor:
    """An IMAGE as [T, H, W, 3] float32 in 0..1; the very tensor where it is that already.

    Taken besides: a single picture [H, W, C], grey, alpha (left out), numpy arrays, uint8 and floats of 0..255 (scaled). Values that run
    out of 0..1 are clamped.

    Args:
        name: of the input, for messages.
    Raises:
        ValueError: it is no picture, holds NaN or infinite pixels, or values of which it is not clear what they mean.
    """
    pixels = _tensor(name, images, WANTED)
    if pixels.ndim == 3 and pixels.shape[-1] in GREY_CHANNELS + COLOUR_CHANNELS:
        pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[-1] not in GREY_CHANNELS + COLOUR_CHANNELS or pixels.numel() == 0:
        raise ValueError(f"{name} {WANTED}, got shape {tuple(pixels.shape)}.")
    colours = pixels[..., :COLOURS] if pixels.shape[-1] >= COLOURS else pixels[..., :1].expand(*pixels.shape[:-1], COLOURS)
    return _unit_range(name, colours)


def read_masks(name: str, mask: Any) -> Tensor:
    """A MASK as [T, H, W] float32 in 0..1, one or many by time; a single one [H, W] is taken, too.

    Raises:
        ValueError: it is no mask, or holds NaN or infinite values.
    """
    values = _tensor(name, mask, MASK_WANTED)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.numel() == 0:
        raise ValueError(f"{name} {MASK_WANTED}, got shape {tuple(values.shape)}.")
    return _unit_range(name, values.float() if values.dtype == torch.bool else values)


def read_optional_pictures(name: str, images: Any) -> Tensor | None:
    """As `read_pictures`; None where nothing is connected."""
    return None if images is None else read_pictures(name, images)


def _tensor(name: str, images: Any, wanted: str) -> Tensor:
    if isinstance(images, Tensor):
        require_numbers(name, images, wanted)
        return images.detach().cpu()
    try:
        if isinstance(images, list | tuple) and images and all(isinstance(item, Tensor) for item in images):
            return torch.stack([item.detach() for item in images])
        array = np.ascontiguousarray(images)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    except (TypeError, ValueError, RuntimeError) as error:
        got = "nothing" if images is None else f"a {type(images).__name__} that is no array of numbers"
        raise ValueError(f"{name} {wanted}, got {got}.") from error


def require_numbers(name: str, tensor: Tensor, wanted: str) -> None:
    """Raise ValueError for a tensor that is sparse, quantised by PyTorch or without data."""
    kinds = {"without data": tensor.is_meta, "sparse": tensor.layout != torch.strided, "quantised": tensor.is_quantized}
    if found := next((kind for kind, is_so in kinds.items() if is_so), None):
        raise ValueError(f"{name} {wanted}, got a tensor that is {found}.")


def _unit_range(name: str, pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels.float() / LEVELS
    if not pixels.is_floating_point():
        kind = str(pixels.dtype).removeprefix("torch.")
        raise ValueError(f"{name} holds numbers of the type {kind}, whose white is not known. An IMAGE holds float in 0..1.")
    low, high = (extreme.item() for extreme in pixels.aminmax())  # NaN if there is one
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"{name} contains NaN or infinite pixels. Check the node that made it.")
    if high > OVERSHOOT or low < 1 - OVERSHOOT:
        pixels, low, high = _scaled(name, pixels, low, high)
    return pixels.float() if low >= 0 and high <= 1 else pixels.float().clamp(0, 1)


def _scaled(name: str, pixels: Tensor, low: float, high: float) -> tuple[Tensor, float, float]:
    """Values of 0..255 as 0..1."""
    if low < -LEVELS / 100 or high > LEVELS * 1.01:
        raise ValueError(f"{name} holds values from {low:.3g} to {high:.3g}. An IMAGE holds float in 0..1.")
    logger.warning("%s holds values from %.3g to %.3g: taken as 0..255, and divided by 255", name, low, high)
    return pixels / LEVELS, low / LEVELS, high / LEVELS
