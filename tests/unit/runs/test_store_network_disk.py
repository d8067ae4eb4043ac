"""A run on a network disk: without locks, with lost answers, stale handles and folders that are told as they were."""

import builtins
import errno
import io
import itertools
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.cli.runs.folder import find_runs, is_in_use
from wan_s2v_pack.tests.run_folders import SETTINGS, clip, make_run, names
from wan_s2v_pack.wan_s2v_model import files
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError

CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"
posix = pytest.mark.skipif(sys.platform == "win32", reason="flock and signals are not there")

WITHOUT_LOCKS = """
import errno, fcntl, os, pathlib, runpy, signal, sys
runpy.run_path({conftest!r})
def flock(*_):
    raise OSError(errno.{error}, os.strerror(errno.{error}))
fcntl.flock = flock
from wan_s2v_pack.tests.run_folders import SETTINGS, clip
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
store = RunStore.open(pathlib.Path({folder!r}), SETTINGS)
store.write_clip(store.num_finished, **clip(store.num_finished))
os.kill(os.getpid(), signal.SIGKILL)
"""


def require_clips(folder, count, at_most=None):
    with RunStore.open(folder, SETTINGS) as store:
        assert count <= store.num_finished <= (at_most or count)
        for index in range(store.num_finished):
            assert torch.equal(store.read_frames(index), clip(index)["frames"])


# Without locks


def no_locks(monkeypatch, error):
    def flock(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)


@posix
@pytest.mark.parametrize("error", ["ENOLCK", "ENOSYS"])
def test_a_run_goes_on_where_nothing_can_be_locked(tmp_path, monkeypatch, caplog, error):
    """With ENOSYS a lock file that another system had left was taken for held, for ever."""
    folder = make_run(tmp_path, "song", 1)
    assert "run.lock" in names(folder)
    code = WITHOUT_LOCKS.format(conftest=str(CONFTEST), error=error, folder=str(folder))
    child = subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    no_locks(monkeypatch, getattr(errno, error))
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        require_clips(folder, 2)
    assert "is on a disk without file locks" in caplog.text


@posix
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_what_only_looks_works_where_nothing_can_be_locked(tmp_path, monkeypatch, error):
    folder = make_run(tmp_path, "song", 2)
    path = tmp_path / "song.mp4"

    no_locks(monkeypatch, error)
    assert [run.num_finished for run in find_runs(tmp_path)] == [2]
    assert not is_in_use(folder)
    with files.reading(folder), VideoWriter(path, width=64, height=48, fps=16, video_format=FORMATS["mp4 (h264)"], quality=18) as writer:
        assert torch.equal(RunStore.reading(folder).read_frames(1), clip(1)["frames"])
        writer.write(clip(1)["frames"])
    assert names(tmp_path) == ["song", "song.mp4"]
    with RunStore.open(folder, SETTINGS) as store:
        store.drop_from(1)
    require_clips(folder, 1)


# Lost answers


def lost_answers(monkeypatch, number):
    """Renaming happens, but what comes back is an error."""
    replace = os.replace

    def renamed(source, target):
        replace(source, target)
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", renamed)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_rename_that_happened_is_no_failure(tmp_path, monkeypatch, number):
    """The answer was lost, and the question came a second time: the run stopped, and a finished video was called lost."""
    path = tmp_path / "song.mp4"
    with monkeypatch.context() as patch:
        lost_answers(patch, number)
        make_run(tmp_path, "song", 3)
        with VideoWriter(path, width=64, height=48, fps=16, video_format=FORMATS["mp4 (h264)"], quality=18) as writer:
            writer.write(clip(0)["frames"])
    require_clips(tmp_path / "song", 3)
    assert names(tmp_path) == ["song", "song.mp4"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EIO, errno.ESTALE])
def test_a_rename_that_did_not_happen_is_one(tmp_path, monkeypatch, number):
    folder = make_run(tmp_path, "song", 1)

    def fails(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    with RunStore.open(folder, SETTINGS) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fails)
            with pytest.raises(RunStoreError, match=f"cannot store clip 2 of run 'song' .*{os.strerror(number)}"):
                store.write_clip(1, **clip(1))
        assert store.num_finished == 1
        store.write_clip(1, **clip(1))
    require_clips(folder, 2)
    assert not list(folder.glob("*.tmp"))


# Stale handles, at each call in turn


class FailsOnce:
    """One call of the system fails, the one of this number; `calls` says how many there were."""

    def __init__(self, monkeypatch, folder, at, number):
        self.calls, self._at, self._folder, self._number = 0, at, str(folder), number
        for owner, name in ((os, "open"), (os, "lstat"), (os, "stat"), (os, "listdir"), (os, "replace"), (os, "fsync"), (os, "unlink")):
            monkeypatch.setattr(owner, name, self._failing(getattr(owner, name)))
        monkeypatch.setattr(io, "open", self._failing(io.open))
        monkeypatch.setattr(builtins, "open", self._failing(builtins.open))

    def _failing(self, function):
        def call(path, *arguments, **options):
            if function is self._fsync or str(path).startswith(self._folder):
                self.calls += 1
                if self.calls == self._at:
                    raise OSError(self._number, os.strerror(self._number), str(path))
            return function(path, *arguments, **options)

        return call

    _fsync = staticmethod(os.fsync)


def problem_of_going_on(folder) -> str:
    """Store two clips more, and read the last."""
    try:
        with RunStore.open(folder, SETTINGS) as store:
            for index in range(store.num_finished, 3):
                store.write_clip(index, **clip(index))
            store.read_frames(2)
    except RunStoreError as error:
        return str(error)
    return ""


def test_no_call_that_fails_once_costs_a_finished_clip(tmp_path, monkeypatch):
    """Whichever it is: the run goes on, or stops in words, and every clip that was finished before is there afterwards."""
    for at in itertools.count(1):
        folder = make_run(tmp_path, f"song {at}", 1)
        with monkeypatch.context() as patch:
            failing = FailsOnce(patch, folder, at, errno.ESTALE)
            problem = problem_of_going_on(folder)
        assert problem == "" or os.strerror(errno.ESTALE) in problem, f"call {at}"
        require_clips(folder, 1, at_most=3)
        make_run(tmp_path, folder.name, 3)
        require_clips(folder, 3)
        if failing.calls < at:
            break
    assert at > 20


# Folders that are told as they were


def lagging(monkeypatch, folder):
    """The names in a folder stay those of now, whatever comes and goes."""
    then, iterdir = list(folder.iterdir()), Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(then) if path == folder else iterdir(path))


def test_a_folder_that_is_told_as_it_was(tmp_path, monkeypatch):
    folder = make_run(tmp_path, "song", 2)
    (folder / "clip_00002.safetensors.tmp").write_bytes(b"left over")
    with monkeypatch.context() as patch:
        lagging(patch, folder)
        (folder / "clip_00002.safetensors.tmp").unlink()
        assert problem_of_going_on(folder) == ""
        require_clips(folder, 3)
        with RunStore.open(folder, SETTINGS, redo_from=1) as store:
            store.write_clip(1, **clip(1))
            store.write_clip(2, **clip(2))
        assert [run.num_finished for run in find_runs(tmp_path)] == [3]
    require_clips(folder, 3)
    assert not list(folder.glob("*.tmp"))


# Clocks


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_name_that_was_just_taken_is_kept_where_the_disk_has_another_clock(tmp_path, monkeypatch, hours):
    """Another server took it for abandoned, and both wrote into one video."""
    here = files.time.time
    assert files.take_name(tmp_path / "x.mp4")
    monkeypatch.setattr(files.time, "time", lambda: here() + 3600 * hours)
    files.remove_abandoned(tmp_path.glob("*.part.*"))
    assert not files.take_name(tmp_path / "x.mp4")


def test_a_name_that_is_taken_while_its_lock_is_waited_for_is_kept(tmp_path, monkeypatch):
    """The video that was looked at is cancelled, and another one gets its number, before the lock is had."""
    hold, path = files.hold_unfinished, tmp_path / "x.mp4"
    files.part_of(path).write_bytes(b"cancelled just now")

    def cancelled_and_taken(part):
        part.unlink()
        assert files.take_name(path)
        return hold(part)

    monkeypatch.setattr(files, "hold_unfinished", cancelled_and_taken)
    files.remove_abandoned([files.part_of(path)])
    assert files.part_of(path).exists()
