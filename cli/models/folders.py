"""Where ComfyUI is, and in which folders it looks for models."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from ...wan_s2v_model.untrusted import cut, read_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import cut, read_plain

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_HELP = "ComfyUI's folder (default: COMFYUI_PATH, or where this pack is installed, or that of a ComfyUI that runs here)"
MODELS_HELP = "models folder, where it is not in ComfyUI's folder"
EXTRA_PATHS_FILE = "extra_model_paths.yaml"
MOST_EXTRA_PATHS = 2**16  # bytes
MOST_SAID = 300  # characters of what the reader of YAML says
USUAL_ADDRESSES = ("http://127.0.0.1:8188", "http://127.0.0.1:8000")  # of ComfyUI, and of its Desktop app
ANSWER_S = 2.0
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
    """The program of ComfyUI: in the folder that was given, or that COMFYUI_PATH names, or in which this pack is installed, or that
    scripts/setup made, or that of a ComfyUI that runs on this machine.

    Raises:
        FolderError: if the folder that was given or that COMFYUI_PATH names is no ComfyUI.
    """
    return next(filter(is_comfyui, _candidates(given)), None)


def find_base(given: Path | None) -> Path | None:
    """The folder of a ComfyUI that holds `models` and `output`, found as its program is.

    The Desktop app, and --base-directory, have it elsewhere than the program; the pack is installed in it there.

    Raises: as `find_comfyui`.
    """
    return next(filter(is_base, _candidates(given)), None)


def is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "folder_paths.py").is_file()


def is_base(folder: Path) -> bool:
    return is_comfyui(folder) or any((folder / name).is_dir() for name in ("models", "output"))


def _candidates(given: Path | None) -> Iterator[Path]:
    named = given or (Path(os.environ["COMFYUI_PATH"]) if os.environ.get("COMFYUI_PATH") else None)
    if named is not None:
        if not is_base(named):
            raise FolderError(
                f"There is no ComfyUI in {named}: it has no main.py, and neither models nor output. Give its folder with --comfyui or "
                "COMFYUI_PATH; that of the Desktop app is the one that you chose when you installed it."
            )
        yield named.resolve()
    else:
        yield from (folder.parents[1] for folder in _places_of_the_pack() if folder.parent.name == "custom_nodes")
        if is_comfyui(ROOT / ".comfyui"):
            yield ROOT / ".comfyui"
    yield from _running()


def _places_of_the_pack() -> tuple[Path, ...]:
    """Its folder, and as the user sees it: it may be a link in custom_nodes."""
    return ROOT, Path(os.environ.get("PWD", Path.cwd())), Path(sys.argv[0]).absolute().parent


def _running() -> Iterator[Path]:
    """Program and folders of a ComfyUI that runs on this machine, as far as it tells."""
    try:
        from ..comfyui.errors import ComfyError
        from ..comfyui.transport import Transport  # needs requests
    except ImportError:
        return
    for url in USUAL_ADDRESSES:
        try:
            http = Transport(url, timeout_s=ANSWER_S)
            program, *_ = http.get("/system_stats")["system"]["argv"]
            places = http.get("/internal/folder_paths")["custom_nodes"]
        except (ComfyError, LookupError, TypeError, ValueError):
            continue
        yield Path(program).parent
        yield from (Path(place).parent for place in places)


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
    if not path.exists():
        return {}
    import yaml  # comes with ComfyUI; only needed for this file

    try:
        sections = yaml.safe_load(read_plain(path, MOST_EXTRA_PATHS, through_links=True).decode("utf-8")) or {}
        found: dict[str, tuple[Path, ...]] = {}
        for section in filter(None, sections.values()):
            for kind, folder in _paths_of(section, path.parent):
                found[kind] = (*found.get(kind, ()), folder)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError, OSError) as error:
        raise FolderError(f"{path} cannot be read ({cut(str(error), MOST_SAID)}). Correct it or move it away.") from error
    return found


def _paths_of(section: Mapping[str, Any], beside: Path) -> Iterator[tuple[str, Path]]:
    base = beside / os.path.expandvars(os.path.expanduser(section.get("base_path", "")))
    for kind, lines in section.items():
        if kind not in ("base_path", "is_default"):
            yield from ((NEW_NAMES.get(kind, kind), base / line.strip()) for line in lines.splitlines() if line.strip())
