"""Reads weights files so that every failure says what the file is and what to do."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from .file_format import AGAIN, FORMAT_ERRORS, QUOTE, CheckpointError, problem_of

READ_ERRORS = (SafetensorError, *FORMAT_ERRORS)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Look at a weights file before it is read, and say what is wrong when that fails.

    Raises:
        CheckpointError: with the name of the file, what it is instead, and what to do.
    """
    try:
        problem = problem_of(path)
        if problem is None:
            yield
            return
    except pickle.UnpicklingError as error:
        what = "it holds other Python objects than tensors; they are not opened, because they can run programs"
        raise damaged(path, what, "Pick the .safetensors version.") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or 'the disk fails'}. Check the file and its disk.") from error
    except READ_ERRORS as error:
        if "memory" in str(error).lower():
            raise CheckpointError(f"{path.name} does not fit into main memory. Close other programs or pick a smaller version.") from error
        raise damaged(path, "its contents cannot be read", AGAIN) from error
    raise damaged(path, *problem)


def damaged(path: Path, what: str, advice: str) -> CheckpointError:
    return CheckpointError(f"{path.name} is damaged or holds no weights ({what}). {advice}")


def require_tensors(contents: object, path: Path) -> dict[str, Tensor]:
    """The contents of a file, if they are tensors with names and nothing else, or such contents under one word.

    Raises:
        CheckpointError: if they are not.
    """
    if isinstance(contents, dict) and len(contents) == 1 and isinstance(next(iter(contents.values())), dict):
        (contents,) = contents.values()
    if not isinstance(contents, dict):
        raise damaged(path, "it holds no tensors with names", "Pick the published file.")
    others = [str(name) for name, value in contents.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        names = ", ".join(name[:QUOTE] for name in others[:3])
        what = f"it holds more than tensors: {names}; it looks like a file from training"
        raise damaged(path, what, "Pick the published file, which holds only the weights.")
    return contents
