"""A run on a disk that becomes full, read-only or somebody else's while it is written: nothing that is finished is lost."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from wan_s2v_pack.tests.run_folders import SETTINGS, clip
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError


@contextmanager
def small_disk(place, megabytes):
    """A disk in memory, where the system lets us have one."""
    place.mkdir()
    options = f"size={megabytes}m"
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(store):
    for index in range(9):
        store.write_clip(index, **clip(index))


def goes_on(folder, finished):
    with RunStore.open(folder, SETTINGS) as store:
        assert store.num_finished == finished
        for index in range(finished):
            assert torch.equal(store.read_frames(index), clip(index)["frames"])


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_becomes_full(tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        with RunStore.open(disk / "song", SETTINGS) as store, pytest.raises(RunStoreError, match="No space left on device"):
            fill(store)
        finished = store.num_finished
        assert finished > 0
        assert not list((disk / "song").glob("*.tmp"))
        goes_on(disk / "song", finished)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_becomes_read_only_halfway(tmp_path):
    with small_disk(tmp_path / "disk", 50) as disk:
        with RunStore.open(disk / "song", SETTINGS) as store:
            store.write_clip(0, **clip(0))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(RunStoreError, match="Read-only file system"):
            RunStore.open(disk / "song", SETTINGS)
        assert torch.equal(RunStore.reading(disk / "song").read_frames(0), clip(0)["frames"])
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        goes_on(disk / "song", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="renames no folder in use")
def test_a_folder_that_is_renamed_during_a_run(tmp_path):
    with RunStore.open(tmp_path / "song", SETTINGS) as store:
        store.write_clip(0, **clip(0))
        (tmp_path / "song").rename(tmp_path / "elsewhere")
        with pytest.raises(RunStoreError, match=r"cannot store clip 2 .*No such file or directory"):
            store.write_clip(1, **clip(1))
    goes_on(tmp_path / "elsewhere", 1)


def test_a_clock_that_jumps(tmp_path):
    with RunStore.open(tmp_path / "song", SETTINGS) as store:
        store.write_clip(0, **clip(0))
    for path in (tmp_path / "song").iterdir():
        for then in (0, time.time() + 10**8):
            os.utime(path, (then, then))
    goes_on(tmp_path / "song", 1)
