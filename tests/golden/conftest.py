"""The stored results, unpacked, and the door to ComfyUI."""

import lzma
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfy_bridge, comfyui_path
from wan_s2v_pack.tests.golden.tiny_model import load_ours, save_checkpoint

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed part of the golden set, in the layout that replay.py reads."""
    folder = tmp_path_factory.mktemp("golden")
    for path in DATA.rglob("*"):
        target = folder / path.relative_to(DATA)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xz":
            target.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        elif path.is_file():
            shutil.copyfile(path, target)
    return folder


@pytest.fixture(scope="session")
def bridge() -> ModuleType:
    """The pack's bridge to ComfyUI."""
    try:
        return comfy_bridge()
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def models(bridge: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the tiny model set."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFYUI_PATH", str(comfyui_path()))
        make_tiny_models(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(golden_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny transformer as a single file in float32."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    return save_checkpoint(load_file(golden_folder / "tiny_s2v.safetensors"), golden_folder, path)


@pytest.fixture(scope="module")
def model(bridge: ModuleType, checkpoint: str):
    """The tiny transformer as a MODEL of our loader, float32."""
    return load_ours(bridge, checkpoint)


@pytest.fixture(scope="module")
def vae(bridge: ModuleType, golden_folder: Path):
    """The tiny VAE, float32."""
    return bridge.load_vae(str(golden_folder / "tiny_wan21_vae.safetensors"), "fp32")


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch):
    """A MODEL with core's copies on so many devices, which are the CPU under several names."""
    import comfy.model_management
    import comfy.multigpu

    def split(model, count):
        devices = [torch.device("cpu"), *(torch.device("cpu", index) for index in range(1, count))]
        monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda *_, **__: devices)
        return comfy.multigpu.create_multigpu_deepclones(model, count)

    return split
