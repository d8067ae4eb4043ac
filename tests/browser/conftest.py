"""A server whose model folders hold the tiny set under the names of the real files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from wan_s2v_pack.cli.server import ComfyServer, prepare_base_directory
from wan_s2v_pack.cli.tiny_models import fill_base_directory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of Chromium."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH is not set; scripts/test sets it")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the package playwright is not installed")
    from wan_s2v_pack.cli.canvas import find_browser

    path = find_browser()
    if path is None:
        pytest.skip("no Chromium is installed")
    return path


@pytest.fixture(scope="session")
def server(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = prepare_base_directory(tmp_path_factory.mktemp("comfyui"), ROOT)
    fill_base_directory(base, real_names=True)
    with ComfyServer(Path(os.environ["COMFYUI_PATH"]), base, cpu=True, extra_args=["--disable-api-nodes"]) as running:
        yield running
