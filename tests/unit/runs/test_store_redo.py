"""A redo that was cut off: queued again it goes on, and throws nothing away that it has made."""

import json
import logging
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.tests.run_folders import SETTINGS, clip, clip_path, cut_off, flip_last_byte, make_run
from wan_s2v_pack.wan_s2v_model.files import reading
from wan_s2v_pack.wan_s2v_model.runs.changes import REDO, Notes, RedoError, RunChangedError, spans_of
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError

NUM_CLIPS = 6


@pytest.fixture
def folder(tmp_path):
    """A run that lacks its last clip."""
    return make_run(tmp_path, "song", NUM_CLIPS - 1, clips=NUM_CLIPS)


def settings(seed):
    return {**SETTINGS, "clips": NUM_CLIPS, "seed": seed}


def redo(folder, until, first_clip=2, seed=43):
    """Queue a redo that ends behind clip `until` - 1; the clip at which it began to sample."""
    with RunStore.open(folder, settings(seed), redo_from=first_clip) as store:
        begin = store.num_finished
        for index in range(begin, until):
            store.write_clip(index, **clip(50 + index))
    return begin


@pytest.mark.parametrize("redo_from", [2, None])
def test_it_goes_on(folder, redo_from, caplog):
    assert redo(folder, until=4) == 2
    with caplog.at_level(logging.INFO, "wan_s2v"), RunStore.open(folder, settings(seed=43), redo_from=redo_from) as store:
        assert store.num_finished == 4
        for index in range(4):
            assert torch.equal(store.read_latents(index), clip(index if index < 2 else 50 + index)["latents"])
    assert ("run 'song': the redo from clip 3 goes on: 4 clips are finished" in caplog.text) == (redo_from is not None)


def test_it_goes_on_again_and_again(folder):
    assert [redo(folder, until) for until in (2, 3, 5, NUM_CLIPS)] == [2, 2, 3, 5]


def test_all_of_a_run_that_never_had_a_clip(tmp_path):
    assert [redo(tmp_path / "new", until, first_clip=0) for until in (0, 3, 4)] == [0, 0, 3]


@pytest.mark.parametrize("other", [{"first_clip": 3}, {"seed": 44}])
def test_another_one_begins_anew(folder, other):
    redo(folder, until=5)
    assert redo(folder, until=5, **other) == other.get("first_clip", 2)


def test_after_a_finished_one_it_begins_anew(folder):
    redo(folder, until=NUM_CLIPS)
    assert "redone_from" not in json.loads((folder / "manifest.json").read_bytes())
    assert redo(folder, until=NUM_CLIPS) == 2


def test_it_begins_anew_where_one_of_its_clips_has_changed(folder):
    redo(folder, until=5)
    flip_last_byte(clip_path(folder, 3))
    assert redo(folder, until=5) == 2


def contents(folder):
    """All that a refusal must leave as it is."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.lock"}


@pytest.mark.parametrize("first_clip", [NUM_CLIPS - 1, NUM_CLIPS, 99])
@pytest.mark.parametrize("seed", [42, 777])
def test_a_clip_that_the_run_does_not_have_is_refused_before_anything_is_touched(folder, first_clip, seed):
    """The manifest took the new seed for clips of the old one, and the old inputs were refused from then on."""
    for name in ("in_progress.mp4", "clip_00005.safetensors.tmp"):
        (folder / name).write_bytes(b"x")
    before = contents(folder)
    with pytest.raises(RedoError, match=rf"no clip {first_clip + 1} to redo: it has 5\."):
        RunStore.open(folder, settings(seed), redo_from=first_clip)
    assert contents(folder) == before
    RunStore.open(folder, settings(seed=42)).close()


def test_a_run_that_is_not_there_is_not_redone(tmp_path):
    with pytest.raises(RedoError, match="no run 'song'"):
        RunStore.open(tmp_path / "song", settings(43), redo_from=1)
    assert not (tmp_path / "song").exists()


def test_a_run_without_clips_has_none_to_redo(tmp_path):
    make_run(tmp_path, "song", 0)
    with pytest.raises(RedoError, match="none yet"):
        RunStore.open(tmp_path / "song", settings(43), redo_from=1)


@pytest.mark.parametrize(("damage", "damaged"), [(cut_off, 0), (cut_off, 1), (Path.unlink, 0), (Path.unlink, 1), (flip_last_byte, 1)])
def test_a_gap_before_the_redo_is_not_filled_with_new_inputs(folder, damage, damaged):
    """It was made with them. (Only the clip that is continued from is compared with its hash: a flipped bit before it is not seen.)"""
    damage(clip_path(folder, damaged))
    before = contents(folder)
    with pytest.raises(RedoError, match=rf"from clip 3: clip {damaged + 1} is missing or damaged.* redo_from_clip to {damaged + 1}"):
        RunStore.open(folder, settings(seed=43), redo_from=2)
    assert contents(folder) == before
    assert redo(folder, until=5, first_clip=damaged, seed=42) == damaged
    assert redo(folder, until=5) == 2


@pytest.mark.parametrize("redo_from", [2, None])
def test_nor_is_one_that_comes_while_a_redo_goes_on(folder, redo_from):
    redo(folder, until=4)
    cut_off(clip_path(folder, 1))
    with pytest.raises(RedoError, match="clip 2 is missing or damaged"):
        RunStore.open(folder, settings(seed=43), redo_from=redo_from)
    assert redo(folder, until=4, first_clip=1) == 1


def test_a_redo_waits_for_readers(folder):
    before = contents(folder)
    with reading(folder):
        with pytest.raises(RunStoreError, match="is being read by another process"):
            RunStore.open(folder, settings(seed=43), redo_from=2)
        RunStore.open(folder, settings(seed=42)).close()  # takes nothing away
    assert contents(folder) == before
    assert redo(folder, until=4) == 2


def test_damaged_clips_are_not_made_again_under_a_reader(folder):
    cut_off(clip_path(folder, 3))
    with reading(folder), pytest.raises(RunStoreError, match="is being read"):
        RunStore.open(folder, settings(seed=42))


def test_the_file_of_a_reader_that_was_killed_keeps_nobody_away_and_goes(folder):
    (folder / "1f.reader").touch()
    assert redo(folder, until=4) == 2
    assert not list(folder.glob("*.reader"))


def run_with_prompts(folder, texts, num_clips, if_changed="stop"):
    """A run whose clips are told these texts."""
    notes = Notes(by_clip={"prompt": spans_of(texts)})
    fingerprint = {**SETTINGS, "prompt": " ".join(texts), "clips": 4}
    with RunStore.open(folder, fingerprint, notes, if_changed=if_changed) as store:
        kept = store.num_finished
        for index in range(kept, num_clips):
            store.write_clip(index, **clip(index))
    return kept


def test_a_changed_run_is_redone_from_the_first_clip_that_changes(tmp_path):
    folder = tmp_path / "song"
    assert run_with_prompts(folder, ["a", "a", "b", "b"], 4) == 0
    with pytest.raises(RunChangedError):
        run_with_prompts(folder, ["a", "a", "c", "c"], 4)
    assert run_with_prompts(folder, ["a", "a", "c", "c"], 3, REDO) == 2
    assert run_with_prompts(folder, ["a", "a", "c", "c"], 4) == 3, "it goes on with the same inputs"
    assert run_with_prompts(folder, ["d", "a", "c", "c"], 4, REDO) == 0


def test_a_change_behind_the_finished_clips_costs_none(tmp_path):
    folder = tmp_path / "song"
    assert run_with_prompts(folder, ["a", "a", "b", "b"], 2) == 0
    assert run_with_prompts(folder, ["a", "a", "b", "c"], 4, REDO) == 2


def test_a_run_of_an_older_version_is_redone_from_its_beginning(tmp_path):
    """Its manifest does not say what each clip was told."""
    folder = tmp_path / "song"
    run_with_prompts(folder, ["a", "a", "b", "b"], 4)
    content = json.loads((folder / "manifest.json").read_text())
    del content["by_clip"]
    (folder / "manifest.json").write_text(json.dumps(content))
    assert run_with_prompts(folder, ["a", "a", "c", "c"], 4, REDO) == 0
