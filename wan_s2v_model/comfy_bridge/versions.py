"""With which programs a run is made."""

import re
from pathlib import Path

import comfyui_version
import torch

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def versions() -> dict[str, str]:
    """Versions of this pack, of torch and of ComfyUI."""
    return {"pack": _pack_version(), "torch": torch.__version__, "comfyui": comfyui_version.__version__}


def _pack_version() -> str:
    found = re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE) if PROJECT.is_file() else None
    return found[1] if found else "unknown"
