"""Servers that were started otherwise: the attentions of older cards, weights in fp16, no dynamic VRAM; the picture is the same."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient
from wan_s2v_pack.cli.comfyui.server import ComfyServer, prepare_base_directory

from .conftest import ROOT
from .graphs import EXACT, quick_start
from .rendering import Renderer

WAYS = {  # flags -> what the log says of the attention
    ("--use-split-cross-attention", "--disable-dynamic-vram"): "split optimization for attention",
    ("--use-quad-cross-attention", "--fp16-unet"): "sub quadratic optimization for attention",
    ("--use-pytorch-cross-attention", "--disable-pinned-memory"): "pytorch attention",
}
ROUNDING = 6  # levels of 255: weights in fp16, and the order of sums


@pytest.mark.slow
@pytest.mark.parametrize("flags", WAYS, ids=" ".join)
def test_the_clip_is_the_same(flags, comfyui_path, base_directory, renderer, tmp_path):
    settings = {"seed": 600, "filename_prefix": "flags/video", **EXACT}
    expected = renderer.render(quick_start(**settings)).luma.astype(int)
    base = prepare_base_directory(tmp_path / "comfyui", ROOT)
    for name in ("models", "input"):
        shutil.copytree(base_directory / name, base / name, dirs_exist_ok=True)
    with ComfyServer(comfyui_path, base, cpu=True, extra_args=["--disable-api-nodes", *flags]) as server:
        found = Renderer(server, ComfyClient(server.url)).render(quick_start(**settings)).luma.astype(int)
        assert WAYS[flags] in server.log_text().replace("Using ", "")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= ROUNDING
