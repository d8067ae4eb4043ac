"""Where ComfyUI is, and in which folders it looks for models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_HELP = "ComfyUI's folder (default: COMFYUI_PATH, or where this pack is installed)"
MODELS_HELP = "models folder, where it is not in ComfyUI's folder"
EXTRA_PATHS_FILE = "extra_model_paths.yaml"
OLD_NAMES = {"diffusion_models": "unet", "text_encoders": "clip"}  # ComfyUI still looks there too
NEW_NAMES = {old: new for new, old in OLD_NAMES.items()}


class FolderError(Exception):
    """ComfyUI or its models folder was not found, with what to do."""


@dataclass(frozen=True)
class ModelFolders:
    """ComfyUI's model folders.

    Attributes:
        models: the folder that holds `diffusion_models`, `vae` and so on; new files go there.
        extra: further folders by kind, from extra_model_paths.yaml.
    """

    models: Path
    extra: Mapping[str, tuple[Path, ...]]

    def of(self, folder: str) -> list[Path]:
        """All folders in which ComfyUI looks for models of one kind."""
        own = [self.models / name for name in (folder, OLD_NAMES.get(folder)) if name]
        return [*own, *self.extra.get(folder, ())]

    def find(self, folder: str, name: str) -> Path | None:
        """The file that ComfyUI would load under this name, None when there is none."""
        return next((path for place in self.of(folder) if (path := place / name).is_file()), None)


def find_comfyui(given: Path | None) -> Path | None:
    """The ComfyUI that was given, or that COMFYUI_PATH names, or in which this pack is installed, or that scripts/setup made.

    Raises:
        FolderError: if the folder that was given or that COMFYUI_PATH names is no ComfyUI.
    """
    named = given or (Path(os.environ["COMFYUI_PATH"]) if os.environ.get("COMFYUI_PATH") else None)
    if named is not None:
        if is_comfyui(named):
            return named.resolve()
        raise FolderError(f"There is no ComfyUI in {named}: it has no main.py. Give its folder with --comfyui or COMFYUI_PATH.")
    # The working directory as the shell sees it: the pack may be a link in custom_nodes.
    installed = (folder.parents[1] for folder in (ROOT, Path(os.environ.get("PWD", ROOT))) if folder.parent.name == "custom_nodes")
    return next((folder for folder in (*installed, ROOT / ".comfyui") if is_comfyui(folder)), None)


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "folder_paths.py").is_file()


def find_model_folders(comfyui: Path | None, models: Path | None) -> ModelFolders:
    """The model folders of a ComfyUI, or those below a models folder that was given.

    Raises:
        FolderError: if neither is known, the models folder does not exist, or extra_model_paths.yaml cannot be read.
    """
    if models is not None and not models.is_dir():
        raise FolderError(f"There is no folder {models}. --models-dir is the one that holds diffusion_models, vae and so on.")
    if comfyui is None:
        if models is None:
            raise FolderError("No ComfyUI was found. Give its folder with --comfyui, or its models folder with --models-dir.")
        return ModelFolders(models.resolve(), {})
    return ModelFolders((models or comfyui / "models").resolve(), read_extra_paths(comfyui / EXTRA_PATHS_FILE))


def read_extra_paths(path: Path) -> dict[str, tuple[Path, ...]]:
    """The folders that an extra_model_paths.yaml adds, by kind; none when there is no such file."""
    if not path.is_file():
        return {}
    import yaml  # comes with ComfyUI; only needed for this file

    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        found: dict[str, tuple[Path, ...]] = {}
        for section in filter(None, sections.values()):
            for kind, folder in _paths_of(section, path.parent):
                found[kind] = (*found.get(kind, ()), folder)
    except (yaml.YAMLError, AttributeError, TypeError, UnicodeDecodeError, OSError) as error:
        raise FolderError(f"{path} cannot be read ({error}). Correct it or move it away.") from error
    return found


def _paths_of(section: Mapping[str, Any], beside: Path) -> Iterator[tuple[str, Path]]:
    base = beside / os.path.expandvars(os.path.expanduser(section.get("base_path", "")))
    for kind, lines in section.items():
        if kind not in ("base_path", "is_default"):
            yield from ((NEW_NAMES.get(kind, kind), base / line.strip()) for line in lines.splitlines() if line.strip())
