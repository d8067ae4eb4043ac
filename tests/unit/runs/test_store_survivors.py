"""Changes of the store's code that no test noticed before: found by mutation."""

import errno
import json
import logging

import pytest
import torch
from wan_s2v_pack.tests.run_folders import SETTINGS, clip, clip_path, make_run
from wan_s2v_pack.wan_s2v_model import files
from wan_s2v_pack.wan_s2v_model.runs.changes import REDO, Notes
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


def test_a_run_that_is_only_read_is_not_written(tmp_path):
    store = RunStore.reading(make_run(tmp_path, "song", 2))
    assert (store.num_finished, len(store.hashes), store.shown) == (2, 2, range(0))
    assert torch.equal(store.read_frames(1), clip(1)["frames"])
    with pytest.raises(ValueError, match="run 'song' is closed: open it again to write"):
        store.write_clip(2, **clip(2))
    nothing = RunStore.reading(tmp_path / "none")
    assert (nothing.num_finished, nothing.hashes) == (0, ())


def test_messages_count_clips_from_one(tmp_path):
    folder = make_run(tmp_path, "song", 3)
    with RunStore.open(folder, SETTINGS) as store:
        with pytest.raises(ValueError, match=r"^clip 6 of run 'song' cannot be stored: clip 4 is the next one$"):
            store.write_clip(5, **clip(5))
        with pytest.raises(IndexError, match=r"^run 'song' has no clip 6: 3 are finished$"):
            store.read_frames(5)
        with pytest.raises(ValueError, match="got -2"):
            store.drop_from(-3)


def test_a_file_that_vanishes_while_it_is_opened_is_told(tmp_path, monkeypatch):
    store = RunStore.reading(make_run(tmp_path, "song", 2))
    store.read_frames(1)
    monkeypatch.setattr("wan_s2v_pack.wan_s2v_model.runs.store.safe_open", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "gone")))
    with pytest.raises(RunStoreError, match=r"^cannot read clip 2 of run 'song' in .*song: gone\.$"):
        store.read_frames(1)


def test_the_log_says_from_which_clip_a_changed_run_is_made_anew(tmp_path, caplog):
    folder = make_run(tmp_path, "song", 3)
    with (
        caplog.at_level(logging.INFO, "wan_s2v"),
        RunStore.open(folder, {**SETTINGS, "seed_policy": "same seed"}, Notes(assumed={"seed_policy": "seed + clip"}), if_changed=REDO),
    ):
        assert "run 'song': its inputs have changed, it is made anew from clip 2 on" in caplog.text


def test_the_video_in_progress_is_kept_until_the_run_is_done(tmp_path):
    folder = make_run(tmp_path, "song", 2)
    assert "in_progress" not in manifest(folder)
    with RunStore.open(folder, SETTINGS) as store:
        store.shown = range(2)
        store.write_clip(2, **clip(2))
    assert manifest(folder)["in_progress"] == [0, 2]
    with RunStore.open(folder, SETTINGS) as store:
        assert store.shown == range(2)
        store.write_clip(3, **clip(3))
    assert "in_progress" not in manifest(folder)


@pytest.mark.parametrize(("index", "shown"), [(0, range(0)), (2, range(1, 2)), (3, range(1, 3))])
def test_dropped_clips_are_shown_no_more(tmp_path, index, shown):
    folder = make_run(tmp_path, "song", 3)
    with RunStore.open(folder, SETTINGS) as store:
        store.shown = range(1, 3)
        store.drop_from(index)
        assert list(store.shown) == list(shown)
    assert manifest(folder).get("in_progress") == ([shown.start, shown.stop] if shown else None)


def test_versions_of_exactly_the_dropped_clips_are_forgotten(tmp_path):
    folder = tmp_path / "song"
    for until, version in ((2, "2.10"), (3, "2.11")):
        with RunStore.open(folder, SETTINGS, Notes(versions={"torch": version})) as store:
            for index in range(store.num_finished, until):
                store.write_clip(index, **clip(index))
    RunStore.open(folder, SETTINGS, redo_from=2).close()
    assert manifest(folder)["made_with"] == [{"from_clip": 0, "torch": "2.10"}]


def test_a_run_that_does_not_say_how_long_it_is_remembers_no_redo(tmp_path):
    with RunStore.open(tmp_path / "song", {"seed": 1}) as store:
        store.write_clip(0, **clip(0))
    RunStore.open(tmp_path / "song", {"seed": 1}, redo_from=0).close()
    assert "redone_from" not in manifest(tmp_path / "song")


def test_a_manifest_that_cannot_be_read_is_said_in_words(tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(errno.EACCES, "Permission denied", "manifest.json")

    folder = make_run(tmp_path, "song", 1)
    monkeypatch.setattr("wan_s2v_pack.wan_s2v_model.runs.store.read_manifest", refused)
    with pytest.raises(RunStoreError, match=r"manifest\.json cannot be read: Permission denied$"):
        RunStore.reading(folder)


@pytest.mark.parametrize("was_read", [False, True])
def test_a_clip_that_was_deleted_is_said_to_be_missing_with_the_way_out(tmp_path, was_read):
    """It was "No such file or directory"."""
    folder = make_run(tmp_path, "song", 2)
    store = RunStore.reading(folder)
    if was_read:
        store.read_frames(1)
    clip_path(folder, 1).unlink()
    with pytest.raises(RunStoreError, match=r"^cannot read clip 2 of run 'song' in .*song: it is missing\. .*redo_from_clip 2 "):
        store.read_frames(1)


def test_what_the_later_steps_of_live_video_began_with_comes_back(tmp_path):
    began = torch.randn(1, 3, 16, 3, 6, 8, generator=torch.Generator().manual_seed(1))
    with RunStore.open(tmp_path / "song", SETTINGS) as store:
        store.write_clip(0, **clip(0), step_inputs=began)
        assert torch.equal(store.read_step_inputs(0), began)
