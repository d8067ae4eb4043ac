"""The run folder: what is stored comes back, whatever happens to the process, the disk or the files."""

import errno
import hashlib
import json
import logging
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.tests.run_folders import without_hashes
from wan_s2v_pack.tests.systems import LOCK_THAT_STAYS
from wan_s2v_pack.wan_s2v_model.files import lock_file
from wan_s2v_pack.wan_s2v_model.runs.changes import Notes, RunChangedError
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError

FINGERPRINT = {"seed": 42, "steps": 40, "cfg": 4.5, "prompt": "a woman sings", "audio": "sha256:ab", "pose": None, "official": False}
CONFTEST = Path(__file__).resolve().parents[2] / "conftest.py"


def clip(index, *, motion=True):
    generator = torch.Generator().manual_seed(index)
    return {
        "latents": torch.randn(16, 5, 6, 8, generator=generator),
        "motion_latents": torch.randn(1, 16, 19, 6, 8, generator=generator) if motion else None,
        "frames": torch.randint(0, 256, (17, 48, 64, 3), dtype=torch.uint8, generator=generator),
    }


def make_run(folder, num_clips, fingerprint=FINGERPRINT):
    with RunStore.open(folder, fingerprint) as store:
        for index in range(store.num_finished, num_clips):
            store.write_clip(index, **clip(index))
    return folder


def assert_clip(store, index, seed=None):
    expected = clip(index if seed is None else seed)
    assert torch.equal(store.read_latents(index), expected["latents"])
    assert torch.equal(store.read_motion_latents(index), expected["motion_latents"])
    assert torch.equal(store.read_frames(index), expected["frames"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "song"


# What is stored


def test_new_run_is_empty(folder):
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {"format": "wan_s2v_run", "version": 1, "fingerprint": FINGERPRINT, "clips": []}


def test_clips_come_back_bit_for_bit(folder):
    make_run(folder, 3)
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 3
        for index in range(3):
            assert_clip(store, index)
        assert store.read_frames(0).dtype == torch.uint8
        assert store.read_latents(0).dtype == store.read_motion_latents(0).dtype == torch.float32


def test_interrupted_run_ends_with_the_same_files_as_an_uninterrupted_one(tmp_path):
    whole = make_run(tmp_path / "whole", 4)
    parts = make_run(tmp_path / "parts", 2)
    make_run(parts, 4)
    assert names(whole) == names(parts)
    for name in names(whole):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_motion_latents_may_be_absent(folder):
    with RunStore.open(folder, FINGERPRINT) as store:
        store.write_clip(0, **clip(0, motion=False))
        assert store.read_motion_latents(0) is None


def test_history_comes_back_from_runs_of_early_versions(folder):
    make_run(folder, 2)
    path, history = folder / "clip_00000.safetensors", torch.rand(73, 48, 64, 3)
    save_file({**clip(0), "history": history}, path)
    without_hashes(folder)
    with RunStore.open(folder, FINGERPRINT) as store:
        assert torch.equal(store.read_history(0), history)
        assert store.read_history(1) is None


def test_nothing_but_the_clips_manifest_and_lock_is_in_the_folder(folder):
    make_run(folder, 2)
    assert names(folder) == ["clip_00000.safetensors", "clip_00001.safetensors", "manifest.json", *LOCK_THAT_STAYS]


def test_views_are_stored_as_they_look(folder):
    frames = torch.randint(0, 256, (48, 64, 3, 17), dtype=torch.uint8).permute(3, 0, 1, 2)
    latents = torch.randn(16, 10, 6, 8)[:, ::2]
    with RunStore.open(folder, FINGERPRINT) as store:
        store.write_clip(0, latents=latents, motion_latents=None, frames=frames)
        assert torch.equal(store.read_frames(0), frames)
        assert torch.equal(store.read_latents(0), latents)


def test_reading_works_after_close_and_gives_a_copy(folder):
    with RunStore.open(folder, FINGERPRINT) as store:
        store.write_clip(0, **clip(0))
    frames = store.read_frames(0)
    path = folder / "clip_00000.safetensors"
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(frames, clip(0)["frames"])


def test_writing_after_close_is_refused(folder):
    store = RunStore.open(folder, FINGERPRINT)
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.write_clip(0, **clip(0))
    with pytest.raises(ValueError, match="closed"):
        store.drop_from(0)


@pytest.mark.parametrize("index", [-1, 0, 2])
def test_clips_are_written_in_order(folder, index):
    make_run(folder, 1)
    with RunStore.open(folder, FINGERPRINT) as store, pytest.raises(ValueError, match="clip 2 is the next one"):
        store.write_clip(index, **clip(0))


@pytest.mark.parametrize("index", [-1, 1])
def test_reading_a_clip_that_is_not_there(folder, index):
    make_run(folder, 1)
    with RunStore.open(folder, FINGERPRINT) as store, pytest.raises(IndexError, match="1 are finished"):
        store.read_frames(index)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("latents", torch.zeros(16, 5, 6, 8, dtype=torch.bfloat16)),
        ("latents", torch.zeros(1, 16, 5, 6, 8)),
        ("frames", torch.zeros(17, 48, 64, 3)),
        ("motion_latents", torch.zeros(16, 19, 6, 8)),
    ],
)
def test_wrong_tensors_are_refused(folder, name, tensor):
    with RunStore.open(folder, FINGERPRINT) as store:
        with pytest.raises(ValueError, match=name):
            store.write_clip(0, **{**clip(0), name: tensor})
        assert store.num_finished == 0
    assert names(folder) == ["manifest.json", *LOCK_THAT_STAYS]


# Hashes


def test_manifest_has_the_hash_of_every_clip(folder):
    make_run(folder, 3)
    with RunStore.open(folder, FINGERPRINT, redo_from=1) as store:
        store.write_clip(1, **clip(60))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] == [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["clips"]]


def test_clips_of_a_version_that_kept_no_hashes_have_an_empty_one(folder):
    make_run(folder, 2)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    make_run(folder, 3)
    hashes = json.loads(path.read_text())["sha256"]
    assert [bool(value) for value in hashes] == [False, False, True]


# Versions of the programs at work


def made_with(folder):
    return json.loads((folder / "manifest.json").read_text())["made_with"]


def add_clips(folder, until, torch_version, **options):
    with RunStore.open(folder, FINGERPRINT, Notes(versions={"torch": torch_version, "pack": "1"}), **options) as store:
        for index in range(store.num_finished, until):
            store.write_clip(index, **clip(index))


def test_other_versions_are_noted_and_not_refused(folder, caplog):
    add_clips(folder, 2, "2.10")
    with caplog.at_level(logging.INFO, "wan_s2v"):
        add_clips(folder, 3, "2.10")
        assert "other versions" not in caplog.text
        add_clips(folder, 5, "2.11")
    assert "run 'song': other versions from clip 4 on, so the last bits may differ: torch '2.10' -> '2.11'" in caplog.text
    assert made_with(folder) == [{"from_clip": 0, "torch": "2.10", "pack": "1"}, {"from_clip": 3, "torch": "2.11", "pack": "1"}]


def test_versions_of_dropped_clips_are_forgotten(folder):
    add_clips(folder, 2, "2.10")
    add_clips(folder, 3, "2.11")
    add_clips(folder, 1, "2.12", redo_from=1)
    assert made_with(folder) == [{"from_clip": 0, "torch": "2.10", "pack": "1"}]
    add_clips(folder, 2, "2.12")
    assert [entry["from_clip"] for entry in made_with(folder)] == [0, 1]


def test_run_of_a_version_that_noted_none_goes_on(folder):
    make_run(folder, 2)
    add_clips(folder, 3, "2.11")
    assert made_with(folder) == [{"from_clip": 2, "torch": "2.11", "pack": "1"}]
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 3


def test_a_refused_run_is_not_left_locked(folder):
    make_run(folder, 1)
    with pytest.raises(RunChangedError):
        RunStore.open(folder, {**FINGERPRINT, "seed": 1})
    RunStore.open(folder, FINGERPRINT).close()


def test_a_run_without_finished_clips_takes_other_inputs(folder):
    make_run(folder, 0)
    with RunStore.open(folder, {**FINGERPRINT, "seed": 1}) as store:
        store.write_clip(0, **clip(0))
    with pytest.raises(RunChangedError, match="seed: 1 -> 42"):
        RunStore.open(folder, FINGERPRINT)


def test_nan_cannot_be_part_of_a_fingerprint(folder):
    with pytest.raises(ValueError, match="JSON"):
        RunStore.open(folder, {"cfg": float("nan")})
    assert names(folder) == LOCK_THAT_STAYS


# Redo


@pytest.mark.parametrize("index", [0, 1, 3, 4, 9])
def test_drop_from(folder, index):
    make_run(folder, 4)
    kept = min(index, 4)
    with RunStore.open(folder, FINGERPRINT) as store:
        store.drop_from(index)
        assert store.num_finished == kept
        if kept < 4:
            store.write_clip(kept, **clip(77))
    assert not (folder / "clip_00004.safetensors").exists()
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == min(kept + 1, 4)
        for earlier in range(kept):
            assert_clip(store, earlier)
        if kept < 4:
            assert_clip(store, kept, seed=77)


def test_drop_from_deletes_later_clips_first(folder, monkeypatch):
    make_run(folder, 4)
    deleted = []
    unlink = Path.unlink

    def spy(path, missing_ok=False):
        if path.suffix == ".safetensors":
            deleted.append(path.name)
            assert len(json.loads((folder / "manifest.json").read_text())["clips"]) == 1
        unlink(path, missing_ok=missing_ok)

    with RunStore.open(folder, FINGERPRINT) as store:
        monkeypatch.setattr(Path, "unlink", spy)
        store.drop_from(1)
    assert deleted == [f"clip_{index:05d}.safetensors" for index in (3, 2, 1)]


def test_a_negative_redo_is_refused(folder):
    with RunStore.open(folder, FINGERPRINT) as store, pytest.raises(ValueError, match="clip 1 or later, got 0"):
        store.drop_from(-1)


def test_redo_takes_new_inputs_from_there_on(folder):
    make_run(folder, 4)
    new = {**FINGERPRINT, "seed": 43}
    with RunStore.open(folder, new, redo_from=2) as store:
        assert store.num_finished == 2
        store.write_clip(2, **clip(50))
    with RunStore.open(folder, new) as store:
        assert store.num_finished == 3
        assert_clip(store, 1)
        assert_clip(store, 2, seed=50)
    with pytest.raises(RunChangedError, match="seed: 43 -> 42"):
        RunStore.open(folder, FINGERPRINT)


def test_redo_keeps_no_clip_of_another_size(folder):
    make_run(folder, 3, {"width": 832, "seed": 1})
    new = {"width": 1280, "seed": 2}
    with pytest.raises(RunChangedError, match="redo it from clip 1") as caught:
        RunStore.open(folder, new, redo_from=1, fixed=("width",))
    assert set(caught.value.changes) == {"width"}
    with RunStore.open(folder, new, redo_from=0, fixed=("width",)) as store:
        assert store.num_finished == 0


# One process at a time


def test_second_process_is_refused_until_the_first_ends(folder):
    with RunStore.open(folder, FINGERPRINT) as store:
        store.write_clip(0, **clip(0))
        code = f"""
            import pathlib, runpy
            runpy.run_path({str(CONFTEST)!r})
            from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
            RunStore.open(pathlib.Path({str(folder)!r}), {FINGERPRINT!r})
        """
        child = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
        assert child.returncode != 0
        assert "run 'song' is in use by another process" in child.stderr
        assert_clip(store, 0)
    RunStore.open(folder, FINGERPRINT).close()


def test_a_run_that_somebody_looks_at_for_a_moment_is_opened(folder):
    make_run(folder, 0)
    lock = lock_file(folder / "run.lock")
    threading.Timer(0.05, lock.release).start()
    RunStore.open(folder, FINGERPRINT).close()


def test_second_store_of_the_same_process_is_refused(folder):
    with RunStore.open(folder, FINGERPRINT), pytest.raises(RunStoreError, match="in use"):
        RunStore.open(folder, FINGERPRINT)


@pytest.mark.skipif(sys.platform == "win32", reason="flock is not there")
def test_disk_without_locks_works_with_a_warning(folder, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with caplog.at_level(logging.WARNING, "wan_s2v"):
        make_run(folder, 1)
    assert "without file locks" in caplog.text
