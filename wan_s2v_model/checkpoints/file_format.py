"""What lies under the name of a weights file instead of weights: pages, pointers, archives, halves of downloads. Needs no PyTorch."""

import os
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ..untrusted import cut, open_plain, read_json

Problem = tuple[str, str]  # what a file is instead of weights, and what to do
SAFETENSORS = (".safetensors", ".sft")
INDEX_SUFFIX = ".safetensors.index.json"  # of the file that lists the shards of a model
LENGTH_BYTES = 8  # in which a safetensors file says how long its header is
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
HEAD = 512  # bytes that are looked at
QUOTE = 40  # characters
LONGEST_NAME = 200  # characters of a tensor's name and shape in a message
NOT_BUILT_AS_IT_SAYS = (LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError)
FORMAT_ERRORS = (struct.error, EOFError, RuntimeError, zipfile.BadZipFile, *NOT_BUILT_AS_IT_SAYS)
AGAIN = "Download the file again."
UNPACK = "Unpack it and pick the file inside."
SIGNATURES = (  # first bytes, words, advice
    (b"version https://git-lfs", "a Git LFS pointer instead of the file", "Run `git lfs pull` in its folder, or download the file itself."),
    (b"GGUF", "a GGUF file", "Load it with a GGUF loader, or pick the .safetensors version."),
    (b"\x1f\x8b", "a packed archive", UNPACK),
    (b"7z\xbc\xaf", "a packed archive", UNPACK),
    (b"Rar!", "a packed archive", UNPACK),
    (b"\x89HDF", "a TensorFlow file", "Pick the .safetensors version."),
)
WEB_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml)", re.IGNORECASE)
AGAIN_OR_OTHER = "Download the file again or pick another one."


def problem_of(path: Path) -> Problem | None:
    """What a file is instead of weights, None if it looks complete. Raises FORMAT_ERRORS and OSError."""
    with open_plain(path, through_links=True) as file:
        return _problem_of(file, path)


def _problem_of(file: BinaryIO, path: Path) -> Problem | None:
    size, head = os.fstat(file.fileno()).st_size, file.read(HEAD)
    problem = _stand_in(head)
    if problem is not None:
        return problem
    if size <= LENGTH_BYTES and path.suffix.lower() in SAFETENSORS:
        return f"it is cut off after {size:,} bytes", AGAIN
    is_safetensors = head[LENGTH_BYTES:].startswith(b"{") and 0 < int.from_bytes(head[:LENGTH_BYTES], "little") <= LONGEST_HEADER
    if is_safetensors and path.suffix.lower() not in SAFETENSORS:
        return "it is a safetensors file under another name", "Rename it to .safetensors."
    if is_safetensors:
        return _problem_of_safetensors(file, size)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _problem_of_pickle(path, head, size)
    return _problem_of_text(head, is_link=path.is_symlink()) or ("it is in no known format", AGAIN)


def require_no_stand_in(path: Path) -> None:
    """Raise CheckpointError if a download has left something else than the file: nothing, a pointer or a web page."""
    with open_plain(path, through_links=True) as file:
        problem = _stand_in(file.read(HEAD))
    if problem is not None:
        raise CheckpointError(f"{path.name} is damaged ({problem[0]}). {problem[1]}")


def _stand_in(head: bytes) -> Problem | None:
    if not head.strip(b"\0"):
        return ("it begins with zeros only, like a download that has not finished" if head else "it is empty"), AGAIN
    if WEB_PAGE.match(head):
        return "it is a web page, for example one that asks for a login", "Download the file again, logged in if its page asks for it."
    return next(((f"it is {words}", advice) for signature, words, advice in SIGNATURES if head.startswith(signature)), None)


def _problem_of_text(head: bytes, *, is_link: bool) -> Problem | None:
    """What is said of a text; its first words only where it lies here, since a link of a stranger can lead to any file."""
    line = " ".join(head.decode("utf-8", errors="replace").split())
    is_text = line.isprintable() and line.count("\N{REPLACEMENT CHARACTER}") <= 1  # one: the character at which the head ends
    if not is_text:
        return None
    return "it is a text file" if is_link else f'it is a text file that begins with "{line[:QUOTE]}"', AGAIN


def _problem_of_safetensors(file: BinaryIO, size: int) -> Problem | None:
    """Compare the size of the file with what its header announces."""
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    header = file.read(length)
    if len(header) < length:
        return f"it is cut off inside its header, after {size:,} bytes", AGAIN
    try:
        tensors = read_json(header)
        end = max((entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0)
        expected = LENGTH_BYTES + length + int(end)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return "its header is damaged", AGAIN
    if size < expected:
        return f"it is cut off: {size:,} of {expected:,} bytes are there", AGAIN
    return (f"it has {size - expected:,} bytes too many", AGAIN) if size > expected else None


def _problem_of_pickle(path: Path, head: bytes, size: int) -> Problem | None:
    is_archive = head.startswith(b"PK")
    if is_archive and not zipfile.is_zipfile(path):
        return f"it is cut off after {size:,} bytes", AGAIN
    if is_archive and (unpacked := _unpacked_bytes(path)) > size:
        return f"it is a packed archive that unpacks to {unpacked:,} bytes", UNPACK
    if is_archive and not _holds(path, "data.pkl"):
        return "it is a packed archive", UNPACK
    if is_archive and _holds(path, "constants.pkl"):
        return "it is a TorchScript program", "Pick the .safetensors version."
    if path.suffix.lower() in SAFETENSORS:
        return "it is a PyTorch file under another name", "Rename it to .pth."
    return None


def _unpacked_bytes(path: Path) -> int:
    """What PyTorch would take in memory; it stores what it writes as it is."""
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _holds(path: Path, name: str) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(entry.split("/")[-1] == name for entry in archive.namelist())


class CheckpointError(ValueError):
    """A file that cannot be used, with the reason and what to pick instead."""


def listing(what: str, names: Sequence[str]) -> str:
    """How many tensors have a fault, with the first names; "" for none."""
    if not names:
        return ""
    return f"{len(names)} tensors {what} ({some(names)})"


def some(names: Sequence[str]) -> str:
    """The first names, with dots where there are more."""
    return ", ".join(cut(name, LONGEST_NAME) for name in names[:3]) + (", ..." if len(names) > 3 else "")
