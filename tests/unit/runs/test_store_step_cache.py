"""What clips have taught the step cache is kept with the run: with its clip, as long as the inputs are the same."""

import json

import pytest
from wan_s2v_pack.tests.run_folders import SETTINGS, clip
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError

NUM_CLIPS = 6


def table(index, prompt=0, error=None):
    return {"clip": index, "prompt": prompt, "steps": 40, "guessed": [3, 5], "expected": 0.04, "error": error}


def settings(seed=42):
    return {**SETTINGS, "clips": NUM_CLIPS, "seed": seed}


def make(folder, until=5, taught=(0, 2, 4), **options):
    with RunStore.open(folder, settings(**options)) as store:
        for index in range(store.num_finished, until):
            if index in taught:
                store.step_cache.append(table(index))
            store.write_clip(index, **clip(index))


def kept(folder, redo_from=None, **options):
    with RunStore.open(folder, settings(**options), redo_from=redo_from) as store:
        return store.step_cache


def manifest(folder):
    return json.loads((folder / "manifest.json").read_bytes())


def test_it_is_there_when_the_run_goes_on_and_in_the_finished_one(tmp_path):
    make(tmp_path / "run")
    assert manifest(tmp_path / "run")["step_cache"] == [table(0), table(2), table(4)] == kept(tmp_path / "run")
    make(tmp_path / "run", until=NUM_CLIPS)
    assert manifest(tmp_path / "run")["step_cache"] == [table(0), table(2), table(4)]


def test_run_without_a_cache_says_nothing_of_it(tmp_path):
    make(tmp_path / "run", taught=())
    assert "step_cache" not in manifest(tmp_path / "run")


def test_what_a_clip_has_taught_counts_only_once_the_clip_is_stored(tmp_path, monkeypatch):
    """The next clip is sampled while the one before it is written."""
    make(tmp_path / "run", until=2)
    with RunStore.open(tmp_path / "run", settings()) as store:
        store.step_cache += [table(2), table(3)]
        store.write_clip(2, **clip(2))
        assert manifest(tmp_path / "run")["step_cache"] == [table(0), table(2)]
        monkeypatch.setattr("wan_s2v_pack.wan_s2v_model.files.write_atomically", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(RunStoreError):
            store.write_clip(3, **clip(3))
    assert kept(tmp_path / "run") == [table(0), table(2)]


@pytest.mark.parametrize(("seed", "prompt"), [(42, 0), (43, None)])
def test_redo_forgets_its_clips_and_with_other_inputs_no_table_holds(tmp_path, seed, prompt):
    make(tmp_path / "run")
    assert kept(tmp_path / "run", redo_from=3, seed=seed) == [table(0, prompt), table(2, prompt)]
    assert manifest(tmp_path / "run")["step_cache"] == [table(0, prompt), table(2, prompt)]
    assert kept(tmp_path / "run", seed=seed) == [table(0, prompt), table(2, prompt)]
