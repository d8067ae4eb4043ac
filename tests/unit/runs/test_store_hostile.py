"""Run folders that strangers made, or that somebody touches while a run is under way."""

import errno
import json
import os
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.cli.runs.folder import find_runs, is_in_use
from wan_s2v_pack.cli.runs.removal import plan_clean, remove
from wan_s2v_pack.tests.run_folders import clip, clip_path, flip_last_byte, make_run, without_hashes
from wan_s2v_pack.tests.systems import LOCK_THAT_STAYS
from wan_s2v_pack.wan_s2v_model import files, untrusted
from wan_s2v_pack.wan_s2v_model.media.video_formats import LIVE_FORMAT
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter
from wan_s2v_pack.wan_s2v_model.runs.manifest import ManifestError, read_manifest
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError
from wan_s2v_pack.wan_s2v_model.runs.tail import tail_of_run

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right there, pipes with names there are none")


def settings(folder):
    return json.loads((folder / "manifest.json").read_text())["fingerprint"]


def reopen(folder):
    return RunStore.open(folder, settings(folder))


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "runs", "song", 2)


@pytest.fixture
def elsewhere(tmp_path):
    path = tmp_path / "elsewhere.txt"
    path.write_text("precious")
    return path


# Nothing is written through a link


@needs_links
@pytest.mark.parametrize(
    "name", ["in_progress.mp4", "in_progress.mp4.tmp", "manifest.json.tmp", "clip_00002.safetensors.tmp", "clip_00002.safetensors"]
)
@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_nothing_is_written_through_a_link(folder, elsewhere, name, kind):
    path = folder / name
    path.symlink_to(elsewhere) if kind == "symbolic" else os.link(elsewhere, path)
    with reopen(folder) as store:
        store.write_clip(2, **clip(2))
    if name == "in_progress.mp4":
        with VideoWriter(path, width=64, height=48, fps=16, video_format=LIVE_FORMAT, quality=23) as writer:
            writer.write(torch.zeros(2, 48, 64, 3, dtype=torch.uint8))
    assert elsewhere.read_text() == "precious"


@needs_links
@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_folder_that_is_a_link_is_not_written_through(tmp_path, is_there):
    other = tmp_path / "other"
    if is_there:
        other.mkdir()
    (tmp_path / "song").symlink_to(other)
    with pytest.raises(RunStoreError, match="is a link to another folder"):
        RunStore.open(tmp_path / "song", {})
    assert not is_there or not list(other.iterdir())


@needs_links
def test_a_link_of_the_user_in_place_of_the_folder_of_all_runs_is_followed(tmp_path):
    (tmp_path / "other disk").mkdir()
    (tmp_path / "wan_s2v_runs").symlink_to(tmp_path / "other disk")
    with RunStore.open(tmp_path / "wan_s2v_runs" / "song", {}):
        assert (tmp_path / "other disk" / "song").is_dir()


@needs_links
def test_a_lock_that_is_a_link_empties_no_file(folder, elsewhere):
    (folder / "run.lock").unlink()
    (folder / "run.lock").symlink_to(elsewhere)
    with pytest.raises(RunStoreError, match="no plain file"):
        reopen(folder)
    assert elsewhere.read_text() == "precious"


@needs_links
def test_a_lock_is_no_second_name_of_another_file(folder, elsewhere):
    """Libraries before filelock 4 empty what they lock."""
    (folder / "run.lock").unlink()
    os.link(elsewhere, folder / "run.lock")
    reopen(folder).close()
    assert not (folder / "run.lock").samefile(elsewhere)
    assert elsewhere.read_text() == "precious"


def test_files_of_others_are_locked_by_nobody(folder, monkeypatch):
    (folder / "notes.reader").write_text("precious")
    (folder / "0f.reader").touch()
    asked = []
    monkeypatch.setattr(files, "is_held", lambda path: asked.append(path.name))
    assert not files.has_readers(folder)
    assert asked == ["0f.reader"]


@needs_links
@pytest.mark.parametrize("name", ["manifest.json", "run.lock"])
def test_a_pipe_makes_nobody_wait(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(RunStoreError, match="no plain file"):
        RunStore.open(folder, {})
    [run] = find_runs(folder.parent)
    assert run.name == "song"


@needs_links
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_clip_that_is_no_file_is_made_anew(folder, elsewhere, kind):
    path = clip_path(folder, 1)
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(elsewhere)
    with reopen(folder) as store:
        assert store.num_finished == 1
        store.write_clip(1, **clip(1))
    assert elsewhere.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()


# Only what is ours is deleted


def test_only_names_that_a_run_writes_are_deleted(folder):
    for name in ("notes.tmp", "thesis.tmp", "x.reader", "film.part.mp4", "clip_mine.safetensors", "manifest.json.tmp"):
        (folder / name).touch()
    with reopen(folder) as store:
        store.drop_from(0)
    assert {path.name for path in folder.iterdir()} == {
        *("notes.tmp", "thesis.tmp", "x.reader", "film.part.mp4", "clip_mine.safetensors"),
        *("manifest.json", *LOCK_THAT_STAYS),
    }


def test_a_folder_that_is_no_run_loses_nothing(tmp_path):
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    (other / "clip_00000.safetensors.tmp").touch()
    assert plan_clean(find_runs(tmp_path / "runs"), (), None, 0.0) == []
    RunStore.open(other, {}).close()
    assert (other / "clip_00000.safetensors.tmp").is_file()


@needs_links
def test_clean_goes_through_no_link(folder, tmp_path):
    (folder / "manifest.json.tmp").touch()
    place = tmp_path / "others"
    place.mkdir()
    (place / "link").symlink_to(folder)
    assert plan_clean(find_runs(place), (), None, 0.0) == []


def test_clean_leaves_names_that_no_run_writes(folder):
    for name in ("notes.tmp", "manifest.json.tmp"):
        (folder / name).touch()
    for removal in plan_clean(find_runs(folder.parent), (), None, 0.0):
        remove(removal)
    assert (folder / "notes.tmp").is_file()
    assert not (folder / "manifest.json.tmp").exists()


# Manifests


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": {"seed": float("nan")}},
        {"fingerprint": {"clips": float("inf")}},
        {"fingerprint": {"seed": [1]}},
        {"fingerprint": {"seed": {"a": 1}}},
        {"fingerprint": {"seed": 10**400}},
        {"version": True},
        {"format": "another"},
        {"redone_from": "2"},
        {"redone_from": -1},
        {"redone_from": True},
        {"in_progress": [0]},
        {"in_progress": [0, "x"]},
        {"in_progress": 7},
        {"made_with": [{"from_clip": "0"}]},
        {"made_with": [{"from_clip": 0, "torch": [1]}]},
        {"words": {"prompt": 3}},
        {"words": []},
        {"by_clip": {"prompt": [[0]]}},
        {"by_clip": {"prompt": [["0", "x"]]}},
        {"step_cache": [{"clip": 0.5}]},
        {"step_cache": [{"clip": 0, "guessed": 3}]},
        {"step_cache": [3]},
        {"sha256": 5},
    ],
    ids=repr,
)
def test_a_manifest_that_this_pack_did_not_write_is_refused_at_the_door(folder, change):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ManifestError, match="is damaged or no run manifest"):
        read_manifest(folder)
    with pytest.raises(RunStoreError, match="is damaged or no run manifest"):
        RunStore.open(folder, {})
    with pytest.raises(RunStoreError):
        RunStore.reading(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1e999", "9" * 5000, "\xff\xfe"])
def test_one_bad_folder_takes_no_command_away(folder, text):
    make_run(folder.parent, "good", 1)
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    problems = {run.name: run.problem for run in find_runs(folder.parent)}
    assert problems == {"good": "", "song": "manifest.json is damaged or no run manifest"}


def test_a_folder_that_cannot_be_listed_takes_no_command_away(folder, monkeypatch):
    make_run(folder.parent, "good", 1)
    iterdir = type(folder).iterdir

    def refused(path):
        if path.name == "song":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(type(folder), "iterdir", refused)
    problems = {run.name: run.problem for run in find_runs(folder.parent)}
    assert problems == {"good": "", "song": "the folder cannot be read (Permission denied)"}


# Clips


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("index", [0, 1])
def test_a_clip_that_cannot_be_read_now_stops_the_run_and_loses_nothing(folder, monkeypatch, number, index):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    open_file = os.open

    def refused(path, *arguments, **options):
        if str(path) == str(clip_path(folder, index)):
            raise OSError(number, os.strerror(number), str(path))
        return open_file(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(
            RunStoreError, match=f"clip {index + 1} of run 'song' cannot be read now, and nothing was changed: {os.strerror(number)}"
        ):
            reopen(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with reopen(folder) as store:
        assert store.num_finished == 2


def test_a_clip_whose_bytes_cannot_be_read_now_stops_the_run(folder, monkeypatch):
    def fails(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(untrusted, "sha256_of", fails)
    with pytest.raises(RunStoreError, match="cannot be read now, and nothing was changed: Input/output error"):
        reopen(folder)


@pytest.mark.parametrize("read", [RunStore.read_frames, RunStore.read_latents, RunStore.read_motion_latents])
def test_a_clip_with_one_other_bit_is_not_read(folder, read):
    store = RunStore.reading(folder)
    read(store, 0)
    flip_last_byte(clip_path(folder, 0))
    with pytest.raises(RunStoreError, match=r"cannot read clip 1 of run 'song' .*: it has changed since it was written"):
        read(store, 0)


def test_a_clip_of_another_run_is_not_read(folder):
    """A handle that ComfyUI keeps knows the hashes of its clips."""
    store = RunStore.reading(folder)
    other = make_run(folder.parent, "other", 1, seed=2)
    with RunStore.open(other, settings(other), redo_from=0) as redone:
        redone.write_clip(0, **clip(7))
    os.replace(clip_path(other, 0), clip_path(folder, 0))
    with pytest.raises(RunStoreError, match="has changed since it was written"):
        store.read_frames(0)


@pytest.mark.parametrize("key", ["latents", "motion_latents"])
def test_a_clip_with_nan_is_not_read(folder, key):
    tensors = {name: tensor.clone() for name, tensor in load_file(clip_path(folder, 0)).items()}  # Windows replaces no mapped file
    tensors[key].view(-1)[5] = float("nan")
    save_file(tensors, clip_path(folder, 0))
    without_hashes(folder)
    store = RunStore.reading(folder)
    with pytest.raises(RunStoreError, match=f"is damaged \\({key} hold NaN or infinite numbers\\)"):
        store.read_latents(0) if key == "latents" else store.read_motion_latents(0)


def test_a_clip_of_other_ranks_is_not_read(folder):
    save_file({"latents": torch.zeros(16, 5, 6), "frames": torch.zeros(3, dtype=torch.uint8)}, clip_path(folder, 1))
    without_hashes(folder)
    with pytest.raises(RunStoreError, match=r"it is damaged \(latents are F32 \[16, 5, 6\]\)"):
        RunStore.reading(folder).read_frames(1)


def test_a_clip_whose_frames_have_not_the_size_of_its_latents_is_not_read(folder):
    """Before, sampling went on from latents of any size, and ended in an error of PyTorch."""
    save_file({**clip(1), "motion_latents": torch.zeros(1, 16, 19, 3, 3)}, clip_path(folder, 1))
    without_hashes(folder)
    with pytest.raises(RunStoreError, match=r"it is damaged \(motion_latents are \[1, 16, 19, 3, 3\]\)"):
        RunStore.reading(folder).read_motion_latents(1)


def test_clips_of_two_sizes_have_no_end(folder):
    frames = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    save_file({"latents": torch.zeros(16, 5, 1, 1), "frames": frames}, clip_path(folder, 1))
    without_hashes(folder)
    with pytest.raises(RunStoreError, match="pictures of different sizes"):
        tail_of_run(RunStore.reading(folder), 20)


# At the door, and during a run


def test_the_door_tries_a_write(folder, monkeypatch):
    monkeypatch.setattr(files, "write_problem", lambda place: f"Nothing can be written into {place} (Read-only file system).")
    with pytest.raises(RunStoreError, match="Read-only file system"):
        reopen(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="deletes no file that is open")
def test_nobody_gets_in_when_the_lock_is_deleted(folder):
    with reopen(folder):
        (folder / "run.lock").unlink()
        with pytest.raises(RunStoreError, match="is in use by another process"):
            reopen(folder)
        assert is_in_use(folder)
    reopen(folder).close()
    assert not is_in_use(folder)
