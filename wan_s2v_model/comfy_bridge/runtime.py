"""The small things that nodes ask ComfyUI for."""

import re
from pathlib import Path

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import comfyui_version
import torch

LATENT_FORMAT = comfy.latent_formats.Wan21()
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt (a BaseException) when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def metadata_enabled() -> bool:
    """Whether the user lets ComfyUI write workflows into files."""
    return not comfy.cli_args.args.disable_metadata


def free_host_memory() -> int:
    """Bytes of main memory that are free."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))


def versions() -> dict[str, str]:
    """Versions of this pack, of torch and of ComfyUI."""
    return {"pack": _pack_version(), "torch": torch.__version__, "comfyui": comfyui_version.__version__}


def _pack_version() -> str:
    found = re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE) if PROJECT.is_file() else None
    return found[1] if found else "unknown"
