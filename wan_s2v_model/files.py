"""Files that are there as a whole or not at all, whatever stops the process or the machine; and locks that end with their process."""

import errno
import os
import sys
from pathlib import Path

from filelock import FileLock

TEMPORARY_SUFFIX = ".tmp"
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
