"""Files that are there as a whole or not at all, whatever stops the process or the machine; and locks that end with their process.

Windows renames and removes no file that somebody has open, such as a virus scanner that looks at every new file. So `replace` and
`remove` try again for some seconds there, and all of the pack goes through them.
"""

import contextlib
import errno
import logging
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    FULL_SYNC = None
else:
    FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS alone has it

TEMPORARY_SUFFIX = ".tmp"
READER_SUFFIX = ".reader"  # of the files that readers of a folder lock, one each
LOCK_SUFFIX = ".lock"  # of the file that is locked while another is unfinished
KEPT_SUFFIX = ".complete"  # of the empty file beside an unfinished name whose file is whole: it could not be renamed
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)  # how network disks decline to flush a folder, or past their own memory
PATIENCE_S = 0.2  # somebody who only looks whether a lock is held has it for a moment
HELD = (5, 32, 33)  # Windows: access denied, used by another process, locked; no other system has `winerror`
HELD_S, AGAIN_S = 5.0, 0.1  # how long somebody may have a file open, and how often to look

T = TypeVar("T")
logger = logging.getLogger("wan_s2v")


@contextlib.contextmanager
def written_whole(path: Path, suffix: str = TEMPORARY_SUFFIX) -> Iterator[BinaryIO]:
    """A file to write under a temporary name; at the end it is flushed to the disk and renamed, and the folder is flushed.

    Raises:
        OSError: the old file, if there was one, is still there unless only the last flush failed; nothing temporary is left.
    """
    temporary = path.with_name(path.name + suffix)
    try:
        with _patiently(lambda: temporary.open("wb")) as file:
            yield file
            file.flush()
            sync(file.fileno())
        replace(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; raises as `written_whole`."""
    with written_whole(path) as file:
        file.write(data)


def replace(source: Path, target: Path) -> None:
    """Give a file another name, in place of the file that has it; waits for somebody who has one of them open."""
    _patiently(lambda: os.replace(source, target))


def remove(path: Path) -> None:
    """Remove a file if it is there; waits for somebody who has it open."""
    _patiently(lambda: path.unlink(missing_ok=True))


def discard(path: Path) -> None:
    """As `remove`, in a clean-up: a failure is only logged, so that it never hides the error before it."""
    try:
        remove(path)
    except OSError as error:
        logger.warning("%s could not be removed (%s)", path, error.strerror or error)


def _patiently(action: Callable[[], T]) -> T:
    last_try_s = time.monotonic() + HELD_S
    while True:
        try:
            return action()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in HELD or time.monotonic() >= last_try_s:
                raise
        time.sleep(AGAIN_S)


def write_problem(folder: Path) -> str | None:
    """Why no file can be written into a folder, in words; None if one can, or if the folder is not there yet."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"Nothing can be written into {folder} ({error.strerror}). Give ComfyUI a folder that it may write to: --output-directory."


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if sys.platform == "win32":
        return  # folders cannot be opened there, and renaming is journalled
    handle = os.open(folder, os.O_RDONLY)
    try:
        sync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def sync(handle: int) -> None:
    """Flush an open file to the disk, on macOS also out of the memory of the disk, where its fsync leaves it."""
    if FULL_SYNC is not None:
        try:
            fcntl.fcntl(handle, FULL_SYNC)
            return
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    os.fsync(handle)


def lock_file(path: Path) -> FileLock:
    """Lock a file, made if need be and emptied, until `release` or the end of the process.

    Raises:
        filelock.Timeout: another process, or another lock of this one, holds it.
        OSError: the file cannot be opened, or its disk knows no locks.
    """
    lock = FileLock(path, timeout=PATIENCE_S, thread_local=False)
    try:
        lock.acquire()
    except NotImplementedError as error:  # of older versions of the library
        raise OSError(errno.ENOTSUP, "the disk has no locks", str(path)) from error
    return lock


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Be one of any number of readers of a folder, so that `has_readers` says so; on a disk without locks nobody is told."""
    lock = _lock_as_reader(folder)
    try:
        yield
    finally:
        if lock is not None:
            let_go(lock)


def has_readers(folder: Path) -> bool:
    """Whether any process reads a folder."""
    return any(map(is_held, folder.glob(f"*{READER_SUFFIX}")))


def is_held(path: Path) -> bool:
    """Whether any process holds the lock of a file that is there; a reader's file without a lock is that of a killed process."""
    try:
        lock_file(path).release()
    except Timeout:
        return True
    except OSError:
        return False
    return False


def _lock_as_reader(folder: Path) -> FileLock | None:
    while folder.is_dir():  # the lock would make it
        path = folder / f"{uuid.uuid4().hex}{READER_SUFFIX}"
        try:
            lock = lock_file(path)
        except OSError:  # a Timeout, too: on Windows it stands for a folder that cannot be written
            return None
        if path.exists():
            return lock
        lock.release()  # somebody took the new file for abandoned
    return None


def hold_unfinished(part: Path) -> FileLock | None:
    """Lock an unfinished file, by a file beside it, which tells it from an abandoned one; None if another process writes it."""
    path = part.with_name(part.name + LOCK_SUFFIX)
    try:
        return lock_file(path)
    except Timeout:
        return None
    except OSError:  # a disk without locks; there nothing counts as abandoned
        discard(path)
        return None


def let_go(lock: FileLock) -> None:
    """Release a lock and remove its file."""
    with contextlib.suppress(OSError):  # Windows removes no open file; there the library does it
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def keep_unfinished(part: Path) -> None:
    """Mark a file that is whole but could not get its name, so that nobody takes it for abandoned."""
    with contextlib.suppress(OSError):
        part.with_name(part.name + KEPT_SUFFIX).touch()


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove unfinished files of processes that were killed; one that is being written, or is whole, is left alone.

    Args:
        paths: of unfinished files, and of their locks.
    """
    beside = (LOCK_SUFFIX, KEPT_SUFFIX)
    for part in {path.with_suffix("") if path.suffix in beside else path for path in paths}:
        mark = part.with_name(part.name + KEPT_SUFFIX)
        lock = None if mark.is_file() and part.is_file() else hold_unfinished(part)
        if lock is not None:
            with contextlib.suppress(OSError):  # they stay until the next video
                part.unlink(missing_ok=True)
                mark.unlink(missing_ok=True)
            let_go(lock)
