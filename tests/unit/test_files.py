"""Locks that end with their process, and the unfinished videos that are known by a missing one."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from wan_s2v_pack.wan_s2v_model import files
from wan_s2v_pack.wan_s2v_model.files import has_readers, lock_file, reading, remove_abandoned, write_problem
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
MP4 = FORMATS["mp4 (h264)"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are not there; open files cannot be removed there anyway")


def writer(path):
    return VideoWriter(path, width=64, height=48, fps=16, video_format=MP4, quality=18)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "song_00001_.mp4"


def test_a_lock_is_held_once_until_it_is_closed(tmp_path):
    lock = lock_file(tmp_path / "lock")
    with pytest.raises(Timeout):
        lock_file(tmp_path / "lock")
    lock.release()
    lock_file(tmp_path / "lock").release()


def test_a_lock_may_be_released_in_another_thread(tmp_path):
    lock = lock_file(tmp_path / "lock")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    lock_file(tmp_path / "lock").release()


def test_a_file_that_cannot_be_opened_is_not_taken_for_locked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught:
        lock_file(tmp_path / "file" / "lock")
    assert not isinstance(caught.value, Timeout)


def test_a_library_that_raises_no_os_error_for_a_disk_without_locks(tmp_path, monkeypatch):
    """filelock did so before 3.21."""

    def unsupported(_lock):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    with pytest.raises(OSError, match="no locks"):
        lock_file(tmp_path / "lock")


@posix
@pytest.mark.parametrize("with_lock", [True, False])
def test_what_a_killed_process_was_writing_is_removed(path, with_lock):
    code = f"""
        import os, pathlib, runpy, signal
        runpy.run_path({str(CONFTEST)!r})
        import torch
        from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
        from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
        size = dict(width=64, height=48, fps=16)
        with VideoWriter(pathlib.Path({str(path)!r}), **size, video_format=FORMATS["mp4 (h264)"], quality=18) as writer:
            writer.write(torch.zeros(8, 48, 64, 3, dtype=torch.uint8))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.parent.iterdir())
    assert [found.name for found in left] == ["song_00001_.part.mp4", "song_00001_.part.mp4.lock"]
    remove_abandoned(left if with_lock else left[:1])
    assert not list(path.parent.iterdir())


def test_what_is_being_written_stays(path):
    with writer(path) as video:
        video.write(torch.zeros(8, 48, 64, 3, dtype=torch.uint8))
        remove_abandoned([video.part_path])
        assert video.part_path.is_file()
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ZeroDivisionError])
def test_no_lock_outlives_its_video(path, error):
    before = len(os.listdir("/proc/self/fd"))
    for stop in (None, error):
        with contextlib.suppress(error), writer(path) as video:
            video.write(torch.zeros(8, 48, 64, 3, dtype=torch.uint8))
            if stop is not None:
                raise stop
        assert len(os.listdir("/proc/self/fd")) == before


@posix
def test_a_disk_without_locks_works_and_nothing_on_it_counts_as_abandoned(path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with writer(path) as video:
        video.write(torch.zeros(8, 48, 64, 3, dtype=torch.uint8))
        remove_abandoned([video.part_path])
        assert video.part_path.is_file()
    assert list(path.parent.iterdir()) == [path]


def test_any_number_of_readers(tmp_path):
    assert not has_readers(tmp_path)
    with reading(tmp_path), reading(tmp_path):
        assert has_readers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_reader_that_was_killed_is_none(tmp_path):
    (tmp_path / "1f.reader").touch()
    assert not has_readers(tmp_path)


def test_reading_needs_no_folder_and_no_locks(tmp_path, monkeypatch):
    with reading(tmp_path / "gone"):
        pass

    def unsupported(*_, **__):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(FileLock, "acquire", unsupported)
    with reading(tmp_path):
        assert not has_readers(tmp_path)


def test_a_folder_that_can_be_written_to_has_no_problem(tmp_path):
    assert write_problem(tmp_path) is None
    assert write_problem(tmp_path / "not there yet") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_named_with_the_reason(tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert write_problem(tmp_path) == (
        f"Nothing can be written into {tmp_path} (Read-only file system). Give ComfyUI a folder that it may write to: --output-directory."
    )


class MacOS:
    """Its fcntl, and what is asked of it."""

    F_FULLFSYNC = 51

    def __init__(self, error=None):
        self.asked, self.error = [], error

    def fcntl(self, handle, command):
        self.asked.append(command)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize(("error", "num_fsyncs"), [(None, 0), (errno.ENOTSUP, 1), (errno.ENOTTY, 1)])
def test_on_macos_a_file_is_flushed_out_of_the_disks_own_memory_too(tmp_path, monkeypatch, error, num_fsyncs):
    """Its fsync leaves a file there; disks that do not know the better one get the usual one."""
    system, fsyncs = MacOS(error), []
    monkeypatch.setattr(files, "fcntl", system, raising=False)
    monkeypatch.setattr(files, "FULL_SYNC", system.F_FULLFSYNC)
    monkeypatch.setattr(os, "fsync", fsyncs.append)
    monkeypatch.setattr(files, "sync_folder", lambda folder: None)
    files.write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert system.asked == [system.F_FULLFSYNC]
    assert len(fsyncs) == num_fsyncs


def test_a_full_disk_is_told_on_macos_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", MacOS(errno.ENOSPC), raising=False)
    monkeypatch.setattr(files, "FULL_SYNC", MacOS.F_FULLFSYNC)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(tmp_path / "file", b"whole")
    assert list(tmp_path.iterdir()) == []
