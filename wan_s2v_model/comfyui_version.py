"""The versions of ComfyUI that the pack works with, checked before anything else of ComfyUI is used."""

import re

OLDEST_COMFYUI = "0.25.0"  # a test compares what other files say with it


def require_comfyui() -> None:
    """Stop the import below the oldest ComfyUI, in words that ComfyUI shows.

    Raises:
        ImportError: ComfyUI is too old.
    """
    try:
        from comfyui_version import __version__ as version
    except ImportError:  # before 0.3
        version = "0"
    if is_too_old(version):
        raise ImportError(
            f"Wan S2V needs ComfyUI {OLDEST_COMFYUI} or newer, this is {'an older one' if version == '0' else version}. "
            "Update ComfyUI and restart it."
        )


def is_too_old(version: str) -> bool:
    """Whether the pack needs a newer ComfyUI."""
    return _numbers(version) < _numbers(OLDEST_COMFYUI)


def _numbers(version: str) -> tuple[int, ...]:
    """0.30.1 of 0.30.1rc2; a version without numbers is taken for new."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = tuple(map(int, found[0].split("."))) if found else (999,)
    return (*numbers, 0, 0)[:3]
