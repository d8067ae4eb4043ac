"""Changes of the store's code that no test noticed before: found by mutation."""

import errno
import json

import pytest
from wan_s2v_pack.tests.run_folders import SETTINGS, clip, clip_path, make_run
from wan_s2v_pack.wan_s2v_model import files
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_a_failure_of_the_store_is_named_with_its_clip_and_its_cause(tmp_path, monkeypatch):
    """The next clip is sampled while one is written; it asks before each step whether that was in vain."""
    folder = make_run(tmp_path, "song", 1)
    with RunStore.open(folder, SETTINGS) as store:
        store.raise_failure()
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(files, "write_atomically", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(RunStoreError, match=r"cannot store clip 2 of run 'song' .*No space left on device") as caught:
            store.write_clip(1, **clip(1))
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(RunStoreError, match=r"clip 2 of run 'song' could not be stored") as told:
            store.raise_failure()
        assert told.value.__cause__ is full
    assert not clip_path(folder, 1).exists()


def test_a_redo_is_remembered_until_its_last_clip(tmp_path):
    """Dropped too early, a redo that is queued again would throw away what it has made."""
    folder = make_run(tmp_path, "song", 4)
    changed = {**SETTINGS, "seed": 43}
    with RunStore.open(folder, changed, redo_from=1) as store:
        assert manifest(folder)["redone_from"] == 1
        store.write_clip(1, **clip(11))
    with RunStore.open(folder, changed) as store:
        assert store.num_finished == 2
        store.write_clip(2, **clip(12))
        assert manifest(folder)["redone_from"] == 1
    with RunStore.open(folder, changed, redo_from=1) as store:
        assert store.num_finished == 3
        store.write_clip(3, **clip(13))
    assert "redone_from" not in manifest(folder)


def test_a_foreign_format_is_no_run(tmp_path):
    folder = make_run(tmp_path, "song", 1)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**manifest(folder), "format": "somebody else's"}))
    with pytest.raises(RunStoreError, match="is damaged or no run manifest"):
        RunStore.open(folder, SETTINGS)


@pytest.mark.parametrize("version", [3, 99])
def test_a_newer_format_is_said_to_be_newer(tmp_path, version):
    folder = make_run(tmp_path, "song", 1)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**manifest(folder), "version": version}))
    with pytest.raises(RunStoreError, match=f"made by a newer version .*run format {version}"):
        RunStore.open(folder, SETTINGS)


def test_no_history_is_stored(tmp_path):
    folder = make_run(tmp_path, "song", 2)
    with RunStore.open(folder, SETTINGS) as store:
        assert store.read_history(0) is None
        assert store.read_history(1) is None
