"""Fill a ComfyUI base directory with the tiny model set and the sample inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from ...cli.models.files import REAL_NAMES
except ImportError:  # started by a script
    from cli.models.files import REAL_NAMES

ROOT = Path(__file__).resolve().parents[2]


def fill_base_directory(base: Path, *, real_names: bool = False) -> None:
    """Make the tiny models and copy the samples to the input folder.

    Args:
        base: made by `prepare_base_directory`.
        real_names: also copy the models to the names that the shipped workflows use.
    """
    models = base / "models"
    make_tiny_models(models)
    for name, tiny in REAL_NAMES.items() if real_names else ():
        shutil.copy(models / tiny, models / tiny.split("/")[0] / name)
    for sample in (ROOT / "samples").iterdir():
        shutil.copy(sample, base / "input")


def tiny_file(folder: str) -> str:
    """The tiny model of one of ComfyUI's model folders, as the loaders list it."""
    return next(path.split("/", 1)[1] for path in REAL_NAMES.values() if path.startswith(f"{folder}/"))


def make_tiny_models(models: Path, layouts: Sequence[str] = ()) -> None:
    """Write the tiny set into a models folder, and those layouts (names in layouts.py) beside it."""
    options = ["--layout", *layouts] if layouts else []
    subprocess.run([sys.executable, str(Path(__file__).with_name("make.py")), str(models), *options], check=True)
