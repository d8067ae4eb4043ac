"""Inputs and outputs by path or URL, through fsspec: file, http and memory as it comes, s3 and gs with a package more."""

from __future__ import annotations

import hashlib
import os
import posixpath
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

try:
    from ...wan_s2v_model.files import replace
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import replace

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
NAME_CHARACTERS = 16


class FileError(OSError):
    """A path or URL cannot be used, with the reason."""


def is_url(place: str) -> bool:
    return "://" in place


def require_scheme(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and the path there.

    Raises:
        FileError: it is of a kind that cannot be had here.
    """
    try:
        return url_to_fs(place)
    except (ImportError, ValueError) as error:
        package = PACKAGES.get(place.partition("://")[0])
        advice = f" Install it: python -m pip install {package}" if package else ""
        raise FileError(f"{place} cannot be reached ({error}).{advice}") from error


def require_file(place: str) -> None:
    """Raise FileError unless there is a file at a path or URL."""
    system, path = require_scheme(place)
    try:
        is_there = system.isfile(path)
    except OSError as error:
        raise FileError(f"{place} cannot be looked at ({error})") from error
    if not is_there:
        raise FileError(f"there is no file {place}")


def fetch(place: str, folder: Path) -> Path:
    """Copy a file into a folder, named by its content: every server then knows the same picture by the same name.

    Raises:
        FileNotFoundError: it is not there. OSError: it cannot be read now.
    """
    system, path = require_scheme(place)
    copy = folder / "fetching"
    system.get_file(path, str(copy))
    named = folder / f"{_digest(copy)[:NAME_CHARACTERS]}{posixpath.splitext(path)[1]}"
    replace(copy, named)
    return named


def put(file: Path, place: str) -> None:
    """Copy a file to a path or URL; there it is whole or not at all."""
    system, path = require_scheme(place)
    if isinstance(system, LocalFileSystem):  # object stores show a file when it is whole
        os.makedirs(os.path.dirname(path), exist_ok=True)
        partial = f"{path}.{os.getpid()}.part"
        system.put_file(str(file), partial)
        replace(Path(partial), Path(path))
    else:
        system.put_file(str(file), path)


def _digest(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            hashed.update(block)
    return hashed.hexdigest()
