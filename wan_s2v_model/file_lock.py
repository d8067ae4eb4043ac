"""A lock on a file that ends with its process, however that ends."""

import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


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
