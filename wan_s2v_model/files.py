"""Files that are there as a whole or not at all, whatever stops the process or the machine; and locks that end with their process.

Windows renames and removes no file that somebody has open, such as a virus scanner that looks at every new file. So `replace` and
`remove` try again for some seconds there, and all of the pack goes through them.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import FileLock, Timeout

from .untrusted import NotPlainError, require_plain

try:
    import fcntl
except ImportError:  # Windows
    FULL_SYNC = None
else:
    FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS alone has it

TEMPORARY_SUFFIX = ".tmp"
READER_SUFFIX = ".reader"  # of the files that readers of a folder lock, one each
READER = re.compile(r"[0-9a-f]{1,32}\.reader")
LOCK_SUFFIX = ".lock"  # of the file that is locked while another is unfinished
KEPT_SUFFIX = ".complete"  # of the empty file beside an unfinished name whose file is whole: it could not be renamed
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)  # how network disks decline to flush a folder, or past their own memory
PATIENCE_S = 0.2  # somebody who only looks whether a lock is held has it for a moment
HELD = (5, 32, 33)  # Windows: access denied, used by another process, locked; no other system has `winerror`
HELD_S, AGAIN_S = 5.0, 0.1  # how long somebody may have a file open, and how often to look

TAKEN_S = 60  # that a name may be taken without a byte behind it

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
        remove(temporary)  # a link, or what a crash has left
        with _patiently(lambda: temporary.open("xb")) as file:
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
    before = os.lstat(source)
    try:
        _patiently(lambda: os.replace(source, target))
    except OSError:
        if not _is_renamed(source, target, before):
            raise


def _is_renamed(source: Path, target: Path, before: os.stat_result) -> bool:
    """Whether a file has its new name all the same: a network disk whose answer was lost is asked again, and finds no old name then."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.lstat(target), before) and not os.path.lexists(source)
    return False


def remove(path: Path) -> None:
    """Remove a file if it is there; waits for somebody who has it open."""
    _patiently(lambda: path.unlink(missing_ok=True))


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it; waits for somebody who has a file of it open."""
    _patiently(lambda: shutil.rmtree(path))


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


def make_way(path: Path) -> None:
    """Remove a link, a second name of another file or a pipe where a file is to be written: nothing is written through it."""
    with contextlib.suppress(FileNotFoundError):
        facts = os.lstat(path)
        if not (stat.S_ISDIR(facts.st_mode) or (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1)):
            remove(path)


def lock_file(path: Path) -> FileLock:
    """Lock a file, made if need be and emptied, until `release` or the end of the process.

    Raises:
        filelock.Timeout: another process, or another lock of this one, holds it.
        NotPlainError: it is a link or no file. OSError: the file cannot be opened, or its disk knows no locks.
    """
    require_plain(path)
    _require_locks(path.parent)
    make_way(path)  # a second name of another file, which would be emptied
    lock = FileLock(path, timeout=PATIENCE_S, thread_local=False)
    try:
        lock.acquire()
    except NotImplementedError as error:  # of older versions of the library
        raise OSError(errno.ENOTSUP, "the disk has no locks", str(path)) from error
    return lock


def _require_locks(folder: Path) -> None:
    """Raise OSError where the system knows no locks: the library would take any file with the name of a lock for one that is held."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise
    finally:
        os.close(handle)


class FolderLock:
    """Hold a folder by a file in it, and by itself where the system locks folders: nobody gets in when somebody deletes the file.

    Raises: as `lock_file`.
    """

    def __init__(self, path: Path) -> None:
        self._folder = _hold_folder(path.parent)
        self._file: FileLock | None = None
        try:
            self._file = lock_file(path)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        if self._file is not None:
            self._file.release()
        if self._folder is not None:
            os.close(self._folder)
        self._file = self._folder = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold_folder(path: Path) -> FolderLock | None:
    """As `FolderLock`; None, with a warning, where the disk has no locks. Other errors are raised."""
    try:
        return FolderLock(path)
    except (Timeout, NotPlainError):
        raise
    except OSError as error:
        path.open("ab").close()  # raises, too, unless it is only the lock that fails
        logger.warning("run '%s' is on a disk without file locks (%s): do not run it twice at the same time", path.parent.name, error)
        return None


def is_folder_held(folder: Path) -> bool:
    """Whether a process holds a folder itself, whatever became of the file in it."""
    try:
        handle = _hold_folder(folder)
    except Timeout:
        return True
    except OSError:
        return False
    if handle is not None:
        os.close(handle)
    return False


def _hold_folder(folder: Path) -> int | None:
    """Lock a folder itself; None where that is not possible, as on Windows, which deletes no lock file that is in use."""
    if sys.platform == "win32":
        return None
    handle, last_try_s = os.open(folder, os.O_RDONLY), time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError as error:
            if time.monotonic() >= last_try_s:
                os.close(handle)
                raise Timeout(str(folder)) from error
            time.sleep(AGAIN_S / 10)
        except OSError:  # a network disk without such locks
            os.close(handle)
            return None


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
    return any(is_held(path) for path in folder.glob(f"*{READER_SUFFIX}") if READER.fullmatch(path.name))


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


def part_of(path: Path) -> Path:
    """Where a file is collected until it is complete."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def take_name(path: Path) -> bool:
    """Take the name of a new file, by exclusive creation of its part: of several processes one gets it."""
    part = part_of(path)
    try:
        part.open("xb").close()
    except FileExistsError:
        return False
    if not path.exists():
        return True
    discard(part)
    return False


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


def _is_just_taken(part: Path) -> bool:
    """Whether a process may be about to write a file whose name it has taken; by the clock of the disk, which may be another one."""
    with contextlib.suppress(OSError):
        facts = part.stat()
        if facts.st_size == 0:
            with tempfile.TemporaryFile(dir=part.parent) as now:
                return abs(os.fstat(now.fileno()).st_mtime - facts.st_mtime) < TAKEN_S
    return False


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Remove unfinished files of processes that were killed; one that is being written, or is whole, is left alone.

    Args:
        paths: of unfinished files, and of their locks.
    """
    beside = (LOCK_SUFFIX, KEPT_SUFFIX)
    for part in {path.with_suffix("") if path.suffix in beside else path for path in paths}:
        mark = part.with_name(part.name + KEPT_SUFFIX)
        lock = None if _is_wanted(part, mark) else hold_unfinished(part)
        if lock is not None:
            if not _is_wanted(part, mark):  # it may have ended, and its name be taken, while the lock was waited for
                with contextlib.suppress(OSError):  # they stay until the next video
                    part.unlink(missing_ok=True)
                    mark.unlink(missing_ok=True)
            let_go(lock)


def _is_wanted(part: Path, mark: Path) -> bool:
    return (mark.is_file() and part.is_file()) or _is_just_taken(part)
