"""A redo that was cut off: queued again it goes on, and throws nothing away that it has made."""

import json
import logging

import pytest
import torch
from wan_s2v_pack.tests.run_folders import SETTINGS, clip, clip_path, flip_last_byte, make_run
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

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
    assert ("run 'song': the redo from clip 2 goes on: 4 clips are finished" in caplog.text) == (redo_from is not None)


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
