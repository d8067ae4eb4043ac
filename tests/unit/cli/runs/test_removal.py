"""`cli runs delete` and `clean`: what they remove, and what they never do."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.cli.runs.folder import InUseError, find_runs, read_run
from wan_s2v_pack.cli.runs.removal import plan_clean, plan_delete, remove
from wan_s2v_pack.cli.runs.verify import verify
from wan_s2v_pack.tests.run_folders import SETTINGS, age, clip, clip_path, make_run, names
from wan_s2v_pack.wan_s2v_model.files import reading
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore


def without_lock(folder):
    """Windows removes the lock file of a run that nobody holds."""
    return [name for name in names(folder) if name != "run.lock"]


def test_delete_shows_first(runs_folder, runs_command):
    folder = make_run(runs_folder, "song")
    before = names(folder)
    status, output, _ = runs_command("delete", "song")
    assert status == 0
    assert "run 'song': 3/4 clips, 3.6 s" in output
    assert "nothing was removed yet" in output
    assert names(folder) == before


def test_delete_removes_only_the_named_runs(runs_folder, runs_command):
    for name in ("a", "b", "c"):
        make_run(runs_folder, name, 1)
    (runs_folder / "a" / "in_progress.mp4").touch()
    (runs_folder / "a" / "clip_00001.safetensors.tmp").touch()
    assert runs_command("delete", "a", "c", "a", "--yes")[0] == 0
    assert names(runs_folder) == ["b"]


def test_delete_keeps_files_of_no_run(runs_folder, runs_command):
    folder = make_run(runs_folder, "song", 1)
    (folder / "notes.txt").touch()
    assert "its folder stays, with notes.txt" in runs_command("delete", "song")[1]
    assert runs_command("delete", "song", "--yes")[0] == 0
    assert names(folder) == ["notes.txt"]
    assert "not a run" in runs_command("delete", "song", "--yes")[1]


@pytest.mark.parametrize("name", ["nope", "..", ".", "", "../wan_s2v_runs/a"])
def test_delete_of_an_unknown_name_deletes_nothing(runs_folder, runs_command, name):
    make_run(runs_folder, "a", 1)
    status, _, errors = runs_command("delete", "a", name, "--yes")
    assert status == 1
    assert f"There is no run '{name}'" in errors
    assert names(runs_folder) == ["a"]


def test_a_run_in_use_is_never_deleted(runs_folder, runs_command):
    folder, other = make_run(runs_folder, "song", 1), make_run(runs_folder, "other", 1)
    age(folder, 9)
    before = without_lock(folder)
    with RunStore.open(folder, SETTINGS):
        age(folder, 9)
        for command in (("delete", "song", "other", "--yes"), ("clean", "song", "--older-than", "1", "--yes")):
            status, output, _ = runs_command(*command)
            assert status == 1
            assert "run 'song' is in use by another process: it stays" in output
        assert without_lock(folder) == before
    assert not other.exists()


@pytest.mark.parametrize("system", ["this", "Windows"])
def test_a_run_that_is_being_read_is_never_deleted(runs_folder, runs_command, system):
    """Save Video read its clips, and they were gone. Windows has no lock file while nobody works on a run."""
    folder = make_run(runs_folder, "song", 1)
    if system == "Windows":
        (folder / "run.lock").unlink(missing_ok=True)
    before = without_lock(folder)
    [removal] = plan_delete(find_runs(runs_folder), ["song"])
    with reading(folder):
        assert read_run(folder).strange == ()
        status, output, _ = runs_command("delete", "song", "--yes")
        assert (status, "in use by another process: it stays" in output) == (1, True)
        with pytest.raises(InUseError, match="is being read"):
            remove(removal)
    assert without_lock(folder) == before
    assert runs_command("delete", "song", "--yes")[0] == 0
    assert names(runs_folder) == []


def test_the_file_of_a_reader_that_was_killed_is_left_over(runs_folder, runs_command):
    folder = make_run(runs_folder, "song", 1)
    before = names(folder)
    (folder / "1f.reader").touch()
    assert runs_command("clean", "--yes")[0] == 0
    assert names(folder) == before


def test_a_run_that_came_into_use_after_the_plan_stays(runs_folder):
    folder = make_run(runs_folder, "song", 1)
    [removal] = plan_delete(find_runs(runs_folder), ["song"])
    before = without_lock(folder)
    with RunStore.open(folder, SETTINGS), pytest.raises(InUseError):
        remove(removal)
    assert without_lock(folder) == before


def test_a_cut_off_delete_leaves_a_shorter_run(runs_folder, monkeypatch):
    folder = make_run(runs_folder, "song", 4)
    [removal] = plan_delete(find_runs(runs_folder), ["song"])
    unlink = Path.unlink

    def crash(path, **options):
        if path.name == "clip_00001.safetensors":
            raise KeyboardInterrupt
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", crash)
    with pytest.raises(KeyboardInterrupt):
        remove(removal)
    monkeypatch.undo()
    with RunStore.open(folder, SETTINGS) as store:
        assert store.num_finished == 2
        assert torch.equal(store.read_frames(1), clip(1)["frames"])


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_not_followed(runs_folder, tmp_path, runs_command):
    target = make_run(tmp_path, "elsewhere", 1)
    (runs_folder / "link").symlink_to(target)
    status, output, _ = runs_command("delete", "link", "--yes")
    assert status == 1
    assert "is a link" in output
    assert len(names(target)) == 3


def test_clean_removes_leftovers_and_nothing_else(runs_folder, runs_command):
    folder = make_run(runs_folder, "song", 2)
    kept = names(folder)
    for name in ("clip_00002.safetensors.tmp", "manifest.json.tmp", "clip_00002.safetensors", "in_progress.part.mp4"):
        (folder / name).write_bytes(b"half")
    assert "run 'song': 4 leftovers: " in runs_command("clean")[1]
    assert len(names(folder)) == len(kept) + 4
    assert runs_command("clean", "--yes")[0] == 0
    assert names(folder) == kept
    assert verify(read_run(folder)).redo_from is None


def test_clean_does_not_remove_a_clip_that_was_finished_after_the_plan(runs_folder):
    folder = make_run(runs_folder, "song", 1)
    clip_path(folder, 1).write_bytes(b"half")
    [removal] = plan_clean(find_runs(runs_folder), (), None, time.time())
    make_run(runs_folder, "song", 2)
    remove(removal)
    assert read_run(folder).num_finished == 2


def test_clean_removes_old_runs_that_are_named(runs_folder, runs_command):
    for name, days in (("test 1", 40), ("test 2", 3), ("song", 40)):
        age(make_run(runs_folder, name, 1), days)
    status, output, _ = runs_command("clean", "test*", "--older-than", "30", "--yes")
    assert status == 0
    assert "test 1" in output
    assert names(runs_folder) == ["song", "test 2"]
    facts = json.loads(runs_command("clean", "*", "--older-than", "1", "--json")[1])
    assert facts["done"] is False
    assert [item["name"] for item in facts["removals"]] == ["song", "test 2"]
    assert names(runs_folder) == ["song", "test 2"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("song",), "with both"),
        (("--older-than", "3"), "with both"),
        (("sing*", "--older-than", "3"), "No run is named 'sing*'"),
    ],
)
def test_clean_refuses_what_is_not_clear(runs_folder, runs_command, arguments, text):
    age(make_run(runs_folder, "song", 1), 9)
    status, _, errors = runs_command("clean", *arguments, "--yes")
    assert status == 1
    assert text in errors
    assert names(runs_folder) == ["song"]
