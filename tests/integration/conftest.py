"""One headless ComfyUI for the whole session, with the tiny model set and the stand-in nodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient
from wan_s2v_pack.cli.comfyui.server import ComfyServer, link_pack, prepare_base_directory
from wan_s2v_pack.scripts.tiny_models.fill import fill_base_directory

from .rendering import Renderer
from .sounds import read_wav

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"


os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tiny models gain nothing from more, and lose much on a busy machine


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory, comfyui_path: Path) -> Path:
    base = prepare_base_directory(tmp_path_factory.mktemp("comfyui"), ROOT)
    link_pack(STAND_INS, base / "custom_nodes" / "stand_ins")
    fill_base_directory(base)
    return base


@pytest.fixture(scope="session")
def server(comfyui_path: Path, base_directory: Path) -> Iterator[ComfyServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**20))  # glibc: freed tensors leave the process, so that its size can be measured
        with ComfyServer(comfyui_path, base_directory, cpu=True, extra_args=["--disable-api-nodes"]) as running:
            yield running


@pytest.fixture
def client(server: ComfyServer) -> ComfyClient:
    return ComfyClient(server.url)


@pytest.fixture
def renderer(server: ComfyServer, client: ComfyClient) -> Renderer:
    return Renderer(server, client)


@pytest.fixture
def sample_speech() -> tuple[np.ndarray, int]:
    return read_wav(ROOT / "samples" / "sample_speech.wav")
