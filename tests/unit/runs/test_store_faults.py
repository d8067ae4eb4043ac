"""The run folder when something goes wrong: crashes, damaged files, a full disk."""

import errno
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.wan_s2v_model.runs.changes import RunChangedError
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError

FINGERPRINT = {"seed": 42, "prompt": "a woman sings", "pose": None}
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


# Crashes


class Crash(BaseException):
    """Like ComfyUI's interrupt, no Exception."""


@pytest.mark.parametrize("crash", [Crash, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("file_name", ["clip_00002.safetensors", "manifest.json"])
def test_crash_between_temporary_write_and_rename(folder, monkeypatch, crash, file_name):
    make_run(folder, 2)
    replace = os.replace

    def crashing(source, target):
        if Path(target).name == file_name:
            raise crash("now")
        replace(source, target)

    with RunStore.open(folder, FINGERPRINT) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", crashing)
            with pytest.raises(RunStoreError if crash is OSError else crash):
                store.write_clip(2, **clip(99))
        assert store.num_finished == 2
        assert names(folder) == ["clip_00000.safetensors", "clip_00001.safetensors", "manifest.json", "run.lock"]
        store.write_clip(2, **clip(2))
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 3
        assert_clip(store, 2)


def run_child(folder, before):
    """Store clip 1 in a process of its own, with `before` run first; return its exit status."""
    code = f"""
        import os, pathlib, runpy
        runpy.run_path({str(CONFTEST)!r})
        import torch
        from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
        store = RunStore.open(pathlib.Path({str(folder)!r}), {FINGERPRINT!r})
    """
    body = "store.write_clip(1, latents=torch.ones(16, 5, 6, 8), motion_latents=None, frames=torch.ones(1, 8, 8, 3, dtype=torch.uint8))"
    script = "\n".join((textwrap.dedent(code), textwrap.dedent(before), body))
    return subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode


@pytest.mark.parametrize("file_name", ["clip_00001.safetensors", "manifest.json"])
def test_process_that_dies_before_a_rename_leaves_a_run_that_continues(folder, file_name):
    make_run(folder, 1)
    dying = f"""
        replace = os.replace
        os.replace = lambda source, target: os._exit(9) if str(target).endswith({file_name!r}) else replace(source, target)
    """
    assert run_child(folder, dying) == 9
    assert f"{file_name}.tmp" in names(folder)
    with RunStore.open(folder, FINGERPRINT) as store:
        assert not list(folder.glob("*.tmp"))
        assert store.num_finished == 1
        store.write_clip(1, **clip(1))
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 2
        assert_clip(store, 1)


def test_data_reaches_the_disk_before_its_name(folder, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda source, target: (events.append(Path(target).name), replace(source, target))[1])
    with RunStore.open(folder, FINGERPRINT) as store:
        events.clear()
        store.write_clip(0, **clip(0))
    folder_sync = [] if sys.platform == "win32" else ["sync"]
    assert events == ["sync", "clip_00000.safetensors", *folder_sync, "sync", "manifest.json", *folder_sync]


# Damaged files


def damage_truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def damage_empty(path):
    path.write_bytes(b"")


def damage_keys(path):
    save_file({"frames": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)}, path)


def damage_delete(path):
    path.unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_keys, damage_delete])
def test_damaged_clip_counts_as_missing_with_all_later_ones(folder, caplog, damage):
    make_run(folder, 4)
    damage(folder / "clip_00001.safetensors")
    with caplog.at_level(logging.WARNING, "wan_s2v"), RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 1
        assert "clip 2" in caplog.text
        assert_clip(store, 0)
        store.write_clip(1, **clip(60))
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 2, "clips made from the damaged one must not come back"
        assert_clip(store, 1, seed=60)


def flip_last_byte(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(("flipped", "finished"), [((3,), 3), ((2, 3), 2), ((0, 1, 2, 3), 0), ((1,), 4)])
def test_run_does_not_go_on_from_a_clip_that_has_changed(folder, caplog, flipped, finished):
    """A clip in the middle is not read before the video is written; `runs verify` looks at all of them."""
    make_run(folder, 4)
    for index in flipped:
        flip_last_byte(folder / f"clip_{index:05d}.safetensors")
    with caplog.at_level(logging.WARNING, "wan_s2v"), RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == finished
    assert (f"clip {finished + 1} has changed since it was written" in caplog.text) == (finished < 4)


def test_opening_does_not_touch_the_clips_after_a_damaged_one(folder):
    make_run(folder, 3)
    path = folder / "clip_00001.safetensors"
    good = path.read_bytes()
    damage_truncate(path)
    RunStore.open(folder, FINGERPRINT).close()
    path.write_bytes(good)
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format": "other", "version": 1}',
        '{"format": "wan_s2v_run", "version": 1, "fingerprint": {}, "clips": ["../../x"]}',
        '{"format": "wan_s2v_run", "version": "1"}',
        '{"format": "wan_s2v_run", "version": 1, "fingerprint": 3, "clips": []}',
        '{"format": "wan_s2v_run", "version": 1, "fingerprint": {}, "clips": [], "made_with": 3}',
        '{"format": "wan_s2v_run", "version": 1, "fingerprint": {}, "clips": [], "made_with": [{"torch": "2"}]}',
        "\x00" * 100,
    ],
)
def test_damaged_manifest(folder, text):
    make_run(folder, 1)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RunStoreError, match=r"manifest\.json is damaged.*another run name"):
        RunStore.open(folder, FINGERPRINT)
    assert (folder / "clip_00000.safetensors").exists()


def edited(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("num_listed", "num_kept"), [(0, 0), (2, 2), (3, 3), (5, 3)], ids=["no clip", "fewer", "as many", "more than there are"]
)
def test_manifest_with_another_number_of_clips(folder, num_listed, num_kept):
    make_run(folder, 3)
    before = {path.name: path.read_bytes() for path in folder.glob("clip_*")}
    edited(folder, clips=[f"clip_{index:05d}.safetensors" for index in range(num_listed)])
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == num_kept
    assert {path.name: path.read_bytes() for path in folder.glob("clip_*")} == before
    make_run(folder, 3)
    assert {path.name: path.read_bytes() for path in folder.glob("clip_*")} == before, "the same inputs make the same clips"


@pytest.mark.parametrize("fingerprint", [{**FINGERPRINT, "seed": 43}, {}, {**FINGERPRINT, "invented": 1}])
def test_manifest_with_other_inputs_is_refused_and_loses_no_clip(folder, fingerprint):
    make_run(folder, 2)
    before = names(folder)
    edited(folder, fingerprint=fingerprint)
    with pytest.raises(RunChangedError, match="was made with other inputs"):
        RunStore.open(folder, FINGERPRINT)
    assert names(folder) == before
    edited(folder, fingerprint=FINGERPRINT)
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 2


@pytest.mark.parametrize(("hashes", "finished"), [([], 2), (["0" * 64], 2), (["0" * 64] * 9, 0), ([1, None], 0)])
def test_manifest_with_other_hashes_opens_and_loses_no_file(folder, hashes, finished):
    make_run(folder, 2)
    before = names(folder)
    edited(folder, sha256=hashes)
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == finished
    assert names(folder) == before


def test_manifest_of_a_newer_version(folder):
    make_run(folder, 1)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3, "clips": {"new": "layout"}}))
    with pytest.raises(RunStoreError, match="newer version"):
        RunStore.open(folder, FINGERPRINT)


def test_clips_without_a_manifest_are_not_overwritten(folder):
    make_run(folder, 1)
    (folder / "manifest.json").unlink()
    with pytest.raises(RunStoreError, match=r"no manifest\.json"):
        RunStore.open(folder, FINGERPRINT)


def test_clips_after_a_damaged_one_are_forgotten_before_it_is_replaced(folder, monkeypatch):
    make_run(folder, 4)
    damage_truncate(folder / "clip_00001.safetensors")
    listed = []
    replace = os.replace

    def spy(source, target):
        if Path(target).name == "clip_00001.safetensors":
            listed.extend(json.loads((folder / "manifest.json").read_text())["clips"])
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    with RunStore.open(folder, FINGERPRINT) as store:
        store.write_clip(1, **clip(60))
    assert listed == ["clip_00000.safetensors"]


# Disk and folder trouble


def test_disk_full_leaves_nothing_behind_and_the_run_continues(folder, monkeypatch):
    make_run(folder, 1)
    with RunStore.open(folder, FINGERPRINT) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
            with pytest.raises(RunStoreError, match=r"clip 2 of run 'song'.*No space left") as caught:
                store.write_clip(1, **clip(1))
        assert caught.value.errno == errno.ENOSPC
        assert names(folder) == ["clip_00000.safetensors", "manifest.json", "run.lock"]
        store.write_clip(1, **clip(1))
        assert_clip(store, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit there")
def test_write_that_really_fails_half_way(folder):
    make_run(folder, 1)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    assert run_child(folder, limited) == 1
    assert names(folder) == ["clip_00000.safetensors", "manifest.json", "run.lock"]
    with RunStore.open(folder, FINGERPRINT) as store:
        assert store.num_finished == 1


@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted there")
def test_vanished_folder(folder):
    make_run(folder, 1)
    with RunStore.open(folder, FINGERPRINT) as store:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        with pytest.raises(RunStoreError, match=f"clip 2 of run 'song' in {folder}"):
            store.write_clip(1, **clip(1))
        with pytest.raises(RunStoreError, match="cannot read clip 1"):
            store.read_frames(0)
        with pytest.raises(RunStoreError, match="cannot drop"):
            store.drop_from(0)
    assert not folder.exists()


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "song").write_text("")
    with pytest.raises(RunStoreError, match="cannot open the run folder"):
        RunStore.open(tmp_path / "song", FINGERPRINT)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user who can be refused")
def test_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunStoreError, match="Permission denied"):
        RunStore.open(tmp_path / "song", FINGERPRINT)
