"""Shapes of a tiny upscaler and a tiny frame interpolation network, in layouts that ComfyUI's own nodes recognise."""

from __future__ import annotations

UPSCALER = "upscale_models/tiny_compact_x4.safetensors"
INTERPOLATION = "frame_interpolation/tiny_rife.safetensors"
SCALE = 4
WIDTH = 8  # channels
HEAD = 4  # channels of the features of a frame


def compact_shapes() -> dict[str, tuple[int, ...]]:
    """A Real-ESRGAN "compact" network: convolutions with PReLU between them, then pixels out of channels."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (before, after) in enumerate(((3, WIDTH), (WIDTH, WIDTH), (WIDTH, 3 * SCALE**2))):
        shapes |= {f"body.{2 * index}.weight": (after, before, 3, 3), f"body.{2 * index}.bias": (after,)}
    return shapes | {f"body.{index}.weight": (WIDTH,) for index in (1, 3)}


def rife_shapes() -> dict[str, tuple[int, ...]]:
    """A RIFE network (version 4.25 and newer): an encoder of frames and five blocks from coarse to fine."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (before, after) in {"cnn0": (3, 16), "cnn1": (16, 16), "cnn2": (16, 16)}.items():
        shapes |= _layer(f"encode.{name}", (after, before, 3, 3), after)
    shapes |= _layer("encode.cnn3", (16, HEAD, 4, 4), HEAD)
    for block in range(5):
        channels = 7 + 2 * HEAD if block == 0 else 20 + 2 * HEAD
        name = f"blocks.{block}"
        shapes |= _layer(f"{name}.conv0.0.0", (WIDTH // 2, channels, 3, 3), WIDTH // 2)
        shapes |= _layer(f"{name}.conv0.1.0", (WIDTH, WIDTH // 2, 3, 3), WIDTH)
        for number in range(8):
            shapes |= _layer(f"{name}.convblock.{number}.conv", (WIDTH, WIDTH, 3, 3), WIDTH)
            shapes[f"{name}.convblock.{number}.beta"] = (1, WIDTH, 1, 1)
        shapes |= _layer(f"{name}.lastconv.0", (WIDTH, 52, 4, 4), 52)
    return shapes


def _layer(name: str, weight: tuple[int, ...], outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": (outputs,)}
