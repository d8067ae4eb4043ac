"""The options of `doctor` that belong to the comparison."""

from __future__ import annotations

import argparse

from ..models.files import PARTS
from ..predict.options import FILE_FLAGS

MULTIPLE_PX = 64


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only count with --compare."""
    group = parser.add_argument_group("comparison of the model with ComfyUI's own, and a short clip")
    text = "call our model and ComfyUI's own on your files, make a short clip, judge both, and print a block to paste (minutes)"
    group.add_argument("--compare", action="store_true", help=text)
    for flag, part in FILE_FLAGS.items():
        group.add_argument(f"--{flag}", metavar="NAME", help=f"file in models/{PARTS[part].folder} (default: the usual, as `predict`)")
    group.add_argument("--steps", type=int, metavar="N", default=10, help="sampling steps of the clip (default: 10)")
    group.add_argument("--side", type=side, metavar="PX", default=384, help="width and height of the clip (default: 384)")
    group.add_argument(
        "--seconds", type=float, metavar="S", default=4.8, help="length of the clip, 4.1 or more to hear the lips (default: 4.8)"
    )


def side(text: str) -> int:
    pixels = int(text)
    if pixels <= 0 or pixels % MULTIPLE_PX:
        raise argparse.ArgumentTypeError(f"must be a multiple of {MULTIPLE_PX}, got {text}")
    return pixels
