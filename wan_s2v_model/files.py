"""Files that are there as a whole or not at all, whatever stops the process or the machine; and locks that end with their process."""

import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TEMPORARY_SUFFIX = ".tmp"
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)  # how network disks decline to flush a folder


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


def lock_file(path: Path) -> BinaryIO:
    """Lock a file, made if need be, until the returned handle is closed.

    Raises:
        BlockingIOError: another process, or another handle of this one, holds it.
        OSError: the file cannot be opened, or its disk knows no locks.
    """
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if isinstance(error, PermissionError):  # what Windows says of a locked file
            raise BlockingIOError(*error.args) from error
        raise
    return file
