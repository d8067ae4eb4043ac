"""Makes ComfyUI importable, on the CPU, for the kinds that run through it."""

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

PACK = __package__.partition(".")[0]
ROOT = Path(__file__).resolve().parents[2]


class ComfyUINotFoundError(RuntimeError):
    """ComfyUI is needed and not there."""


def comfyui_path() -> Path:
    """Where ComfyUI lies: $COMFYUI_PATH, else `.comfyui` in the repository."""
    path = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui"))
    if not (path / "comfy" / "sd.py").is_file():
        raise ComfyUINotFoundError(f"ComfyUI is not in {path}. Set COMFYUI_PATH to its folder, or run scripts/setup.")
    return path


@cache
def comfy_bridge() -> ModuleType:
    """The pack's bridge to ComfyUI."""
    return pack_module("wan_s2v_model.comfy_bridge")


def pack_module(name: str) -> ModuleType:
    """A module of the pack that needs ComfyUI."""
    path = str(comfyui_path())
    if path not in sys.path:
        sys.path.insert(0, path)
    importlib.import_module("comfy.cli_args").args.cpu = True  # decides the device as soon as ComfyUI's other modules are imported
    return importlib.import_module(f"{PACK}.{name}")
