"""Reads weights files so that every failure says what the file is and what to do."""

import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..untrusted import NotPlainError, cut
from .file_format import AGAIN, AGAIN_OR_OTHER, FORMAT_ERRORS, QUOTE, CheckpointError, listing, problem_of

READ_ERRORS = (SafetensorError, MemoryError, *FORMAT_ERRORS)
MOST_SHARED = 4  # times the size of its file that the tensors may take: some weights stand for two
SMALL = 2**20  # bytes that they may always take
PUBLISHED = "Pick the published file, which holds only the weights."


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
    except NotPlainError as error:
        raise damaged(path, "it is a folder, a pipe or a device", "Pick a file.") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or 'the disk fails'}. Check the file and its disk.") from error
    except READ_ERRORS as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
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
        names = ", ".join(cut(name, QUOTE) for name in others[:3])
        what = f"it holds more than tensors: {names}; it looks like a file from training"
        raise damaged(path, what, PUBLISHED)
    if unusual := listing("have no numbers of their own", [name for name, tensor in contents.items() if not _is_plain(tensor)]):
        raise damaged(path, f"{unusual}: they are sparse, quantised by PyTorch, without data, or one number many times", PUBLISHED)
    _require_no_more_than_stored(contents, path)
    return contents


def _is_plain(tensor: Tensor) -> bool:
    """Whether every value of a tensor is stored: one that repeats a number by a stride of 0 can claim any size."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    if hasattr(tensor, "__tensor_flatten__"):  # of a subclass, which knows itself what it is made of
        return True
    return all(stride or size < 2 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _require_no_more_than_stored(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise CheckpointError where tensors show the same numbers over and over: loaded, each would take memory of its own."""
    needed = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors.values())
    if path.is_file() and needed > MOST_SHARED * path.stat().st_size + SMALL:
        raise damaged(path, f"its tensors would take {needed:,} bytes, and it has {path.stat().st_size:,}", PUBLISHED)


def require_floats(tensors: Mapping[str, Tensor], file_name: str, packed: bool = False) -> None:
    """Raise CheckpointError where a weight is no floating point number.

    Args:
        packed: 8-bit whole numbers are fine, as quantised weights and the tokenizer are stored.
    """
    small = (torch.uint8, torch.int8) if packed else ()
    others = [f"{name} {tensor.dtype}" for name, tensor in tensors.items() if not (tensor.is_floating_point() or tensor.dtype in small)]
    if others:
        raise CheckpointError(f"{file_name}: {listing('are no floating point numbers', others)}. {AGAIN_OR_OTHER}")
