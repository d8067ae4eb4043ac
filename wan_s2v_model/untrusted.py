"""Limits for what strangers made: files, JSON, texts. Loaders, runs, command line and speech ask here. Needs neither PyTorch nor ComfyUI.

What is refused has words of its own: `NotPlainError` for what is no file, `TooLargeError` for a file, ValueError for JSON.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

MOST_SHOWN = 80  # characters of a foreign text in a message
MOST_ON_NODE = 20_000  # characters that a node shows
MOST_TEXT = 1_000_000  # characters of a text that somebody types
MOST_JSON_BYTES = 64 * 2**20
MOST_NAME = 255  # bytes of the name of a file
MOST_DEPTH = 64  # brackets inside each other
HASH_BLOCK_BYTES = 2**22  # that are read at once
MOST_LAYERS = 1000  # of a model; the largest here has 40
NO_PLAIN_FILE = "it is no plain file, but a link, a folder, a pipe or a device"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # all but tab and line feed
WITHOUT_TAGS = {ord("<"): "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", ord(">"): "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"}
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 2, MOST_SHOWN, MOST_SHOWN


class NotPlainError(OSError):
    """Something that is no file stands in the place of one."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, NO_PLAIN_FILE, str(path))


class TooLargeError(OSError):
    """A file is larger than such a file can be."""

    def __init__(self, path: Path, size: int, most: int) -> None:
        super().__init__(errno.EFBIG, f"it has {size:,} bytes, and such a file at most {most:,}", str(path))


def open_plain(path: Path, *, through_links: bool) -> BinaryIO:
    """Open a file for reading, and nothing that would wait or answer without end.

    Args:
        through_links: also the file that a link leads to, as in folders of models; in a folder that a run writes there are no links.
    Raises:
        NotPlainError: it is no file. OSError: as of `open`.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not through_links:
        require_plain(path)
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO) or Path(path).is_dir():  # a link; a pipe; on Windows a folder
            raise NotPlainError(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotPlainError(path)
    return os.fdopen(handle, "rb")


def require_plain(path: Path) -> None:
    """Raise NotPlainError where a link or something else than a file stands; a name that is free is fine."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise NotPlainError(path)


def read_plain(path: Path, most_bytes: int, *, through_links: bool) -> bytes:
    """The bytes of a file that is not larger than such a file can be; for errors see `open_plain`, and TooLargeError."""
    with open_plain(path, through_links=through_links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise TooLargeError(path, size, most_bytes)
        return file.read(most_bytes)


def read_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read JSON that another program can have written: every number finite, no more than 64 brackets inside each other.

    Args:
        finite: without it numbers may be NaN and infinite, as in what a server repeats of the prompts of others.
    Raises:
        ValueError: it is none, or not within these limits.
    """
    try:
        number = _finite if finite else float
        content = json.loads(text, parse_float=number, parse_constant=number)
    except RecursionError as error:
        raise ValueError("too many brackets inside each other") from error
    level = [content]
    for _ in range(MOST_DEPTH):
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return content
    raise ValueError("too many brackets inside each other")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is no finite number")
    return number


def _inside(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return [inner for inner in item.values() if isinstance(inner, dict | list)]
    return [inner for inner in item if isinstance(inner, dict | list)] if isinstance(item, list) else ()


def plain_name(name: Any) -> str | None:
    """A name that stays beside the file that says it, None for every other: a path, another folder, no text."""
    is_plain = isinstance(name, str) and name.isprintable() and not set("\\/:") & set(name) and len(name.encode()) <= MOST_NAME
    return name if is_plain and name not in ("", ".", "..") else None


def layers_problem(num_layers: int, names: int | Mapping[str, Any]) -> str | None:
    """Why a file cannot have so many layers, None if it can: each has tensors of its own.

    Args:
        names: of the tensors, or how many there are.
    """
    num_tensors = names if isinstance(names, int) else len(names)
    if num_layers <= min(num_tensors, MOST_LAYERS):
        return None
    return f"it numbers its layers up to {num_layers - 1:,}, but holds {num_tensors:,} tensors"


def text_problem(name: str, text: str) -> str | None:
    """What is wrong with a text that somebody typed, None if nothing."""
    if len(text) > MOST_TEXT:
        return f"{name} is {len(text):,} characters long; at most {MOST_TEXT:,} are taken. Shorten it."
    if "\0" in text:
        return f"{name} holds a zero byte: {shown(text)}. Remove it."
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"{name} holds half a character (a surrogate): {shown(text)}. Type it anew."
    return None


def shown(value: Any) -> str:
    """A foreign value for a message, by repr and cut: at most 80 characters, without line breaks or escapes."""
    try:
        text = repr(value[: MOST_SHOWN + 1]) if isinstance(value, str) else " ".join(_BRIEF.repr(value).split())
    except Exception:  # noqa: BLE001 - a foreign repr; also of a whole number with thousands of digits
        text = f"a {type(value).__name__}"
    if " at 0x" in text and not isinstance(value, str):
        text = f"a {type(value).__name__}"  # where it lies in memory says nothing
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def cut(text: str, most: int = MOST_SHOWN) -> str:
    """A foreign text within a sentence: in one line, printable, at most so many characters."""
    line = " ".join(printable(text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def without_markup(text: str) -> str:
    """A text for the browser, where ComfyUI shows it as HTML: no tag, and not without end."""
    return printable(text[:MOST_ON_NODE]).translate(WITHOUT_TAGS)


def printable(text: str) -> str:
    """A text for a terminal or a log: what moves the cursor, changes colours or turns the direction of writing becomes a question mark."""
    return CONTROL.sub("?", text)


def sha256_of(path: Path) -> str:
    """The hash of a plain file, read piece by piece."""
    digest = hashlib.sha256()
    with open_plain(path, through_links=False) as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class ComparedFiles:
    """Files that are compared with their hashes once, and again when they have changed since."""

    def __init__(self) -> None:
        self._states: dict[Path, tuple[int, ...]] = {}

    def note(self, path: Path) -> None:
        """Take a file for good, as it was written just now."""
        self._states[path] = _state_of(path)

    def knows(self, path: Path) -> bool:
        """Whether a file is there and has not changed since it was compared."""
        with contextlib.suppress(FileNotFoundError):
            return self._states.get(path) == _state_of(path)
        return False

    def is_as_written(self, path: Path, sha256: str) -> bool:
        """Whether a file has this hash; "" fits all. Raises OSError where it cannot be read."""
        state = _state_of(path)
        if self._states.get(path) != state and sha256 not in ("", sha256_of(path)):
            return False
        self._states[path] = state
        return True


def _state_of(path: Path) -> tuple[int, ...]:
    facts = os.lstat(path)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
