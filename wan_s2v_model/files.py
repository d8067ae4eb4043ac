"""Files that are there as a whole or not at all, whatever stops the process or the machine; and locks that end with their process."""

import contextlib
import errno
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

TEMPORARY_SUFFIX = ".tmp"
READER_SUFFIX = ".reader"  # of the files that readers of a folder lock, one each
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)  # how network disks decline to flush a folder
PATIENCE_S = 0.2  # somebody who only looks whether a lock is held has it for a moment


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, rename it and flush the folder.

    Raises:
        OSError: the old file, if there was one, is still there unless only the last flush failed; nothing temporary is left.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


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
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


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
            with contextlib.suppress(OSError):  # Windows removes no open file; there the library does it
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


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
