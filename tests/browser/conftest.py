"""One server, whose model folders hold the tiny set under the names of the real files, and one browser for all of these tests."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient
from wan_s2v_pack.cli.comfyui.server import ComfyServer, prepare_base_directory
from wan_s2v_pack.scripts.tiny_models.fill import fill_base_directory

from .person import Person

ROOT = Path(__file__).resolve().parents[2]
POSE_FINDER = "sdpose_wholebody_fp16.safetensors"
PICTURES = "SCREENSHOTS"  # environment variable: a folder that keeps the pictures


@pytest.fixture(scope="package")
def browser(comfyui_path: Path) -> str:
    """Path of Chromium."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("the package playwright is not installed")
    from wan_s2v_pack.scripts.pictures.canvas import find_browser

    path = find_browser()
    if path is None:
        pytest.skip("no Chromium is installed")
    return path


@pytest.fixture(scope="package")
def server(browser: str, comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = prepare_base_directory(tmp_path_factory.mktemp("comfyui"), ROOT)
    fill_base_directory(base, real_names=True)
    pose_finder = base / "models" / "checkpoints" / POSE_FINDER
    pose_finder.parent.mkdir(exist_ok=True)
    pose_finder.touch()  # of it there is no tiny stand-in: what needs it can be opened, not run
    with ComfyServer(comfyui_path, base, cpu=True, extra_args=["--disable-api-nodes"]) as running:
        yield running


@pytest.fixture(scope="package")
def client(server: ComfyServer) -> ComfyClient:
    """Without its `wait` and `run`: playwright's event loop stays in the main thread."""
    return ComfyClient(server.url)


@pytest.fixture(scope="package")
def object_info(client: ComfyClient) -> dict[str, Any]:
    return client.object_info()


@pytest.fixture(scope="package")
def opened_canvas(server: ComfyServer, browser: str) -> Iterator[Any]:
    """The front end, closed before other tests need the event loop."""
    from wan_s2v_pack.scripts.pictures.canvas import open_canvas

    with open_canvas(server.url, browser=browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def canvas(opened_canvas: Any) -> Any:
    """The front end without what the tests of other modules left open."""
    opened_canvas.page.evaluate("() => localStorage.clear()")
    opened_canvas.open()
    return opened_canvas


@pytest.fixture
def person(canvas: Any) -> Person:
    """Somebody in front of the browser, who has not clicked yet."""
    return Person(canvas.page)


@pytest.fixture(scope="package")
def picture(opened_canvas: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Takes a picture of the page: `SCREENSHOTS=docs/images scripts/test tests/browser` keeps all of them."""
    folder = Path(os.environ.get(PICTURES) or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)

    def take(name: str) -> None:
        opened_canvas.page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=80)

    return take
