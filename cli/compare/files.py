"""The model files of a comparison: where they are, and what tells them from others."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

from ..models.files import PARTS
from ..models.folders import ModelFolders
from ..models.headers import INDEX_SUFFIX, SAFETENSORS, HeaderError, describe
from ..predict.object_info import PromptError

MAIN_FILES = ("diffusion_pytorch_model" + INDEX_SUFFIX, "model.safetensors", "pytorch_model.bin")  # a folder stands for one of them
LENGTH_BYTES = 8  # in front of a safetensors header
OTHER_BYTES = 2**20  # of a file without such a header
LONGEST_HEADER = 100 * 2**20
DIGEST_CHARACTERS = 16


def find_file(folders: ModelFolders, folder: str, name: str) -> Path:
    """The file behind a choice of a loader.

    Raises:
        PromptError: if it is not where this command looks.
    """
    found = (folders.find(folder, choice) for choice in (name, *(f"{name}/{main}" for main in MAIN_FILES)))
    path = next(filter(None, found), None)
    if path is None:
        raise PromptError(f"{name} is not in models/{folder}. --models-dir names the models folder, where it is not in ComfyUI's.")
    return path


def file_lines(folders: ModelFolders, names: Mapping[str, str]) -> list[str]:
    """A line for each model file: name, type, size, digest of its header."""
    return [
        f"{PARTS[part].title.lower()}: {_file(find_file(folders, PARTS[part].folder, name), name, part)}" for part, name in names.items()
    ]


def _file(path: Path, name: str, part: str) -> str:
    try:
        size, kind = describe(path, part)
    except HeaderError as error:
        size, kind = path.stat().st_size, f"NOT as expected: {error}"
    shown = name.replace("\\", "/").rpartition("/")[2]
    return f"{shown}, {kind}, {size:,} bytes, header {header_digest(path)}"


def header_digest(path: Path) -> str:
    """The first 16 digits of the SHA-256 of what says which tensors are in a file: the same for every copy, read in a moment."""
    with path.open("rb") as stream:
        length = OTHER_BYTES
        if path.suffix.lower() in SAFETENSORS:
            start = stream.read(LENGTH_BYTES)
            length = min(struct.unpack("<Q", start)[0], LONGEST_HEADER) if len(start) == LENGTH_BYTES else 0
        return hashlib.sha256(stream.read(length)).hexdigest()[:DIGEST_CHARACTERS]
