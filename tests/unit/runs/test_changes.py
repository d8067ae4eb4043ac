"""Inputs that differ from those a run was begun with are told in words."""

import os

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.runs.changes import RunChangedError
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

FINGERPRINT = {"seed": 42, "steps": 40, "cfg": 4.5, "prompt": "a woman sings", "audio": "sha256:ab", "pose": None, "official": False}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "song"


def make_run(folder, fingerprint=FINGERPRINT):
    """A run with one finished clip."""
    with RunStore.open(folder, fingerprint) as store:
        store.write_clip(0, latents=torch.zeros(16, 5, 6, 8), motion_latents=None, frames=torch.zeros(17, 48, 64, 3, dtype=torch.uint8))


def test_changed_inputs_are_refused_with_every_change(folder):
    make_run(folder)
    before = {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}
    changed = {**FINGERPRINT, "seed": 43, "prompt": "a man sings", "official": True, "extra": None}
    del changed["pose"]
    with pytest.raises(RunChangedError) as caught:
        RunStore.open(folder, changed)
    message = str(caught.value)
    for text in (
        "run 'song'",
        "seed: 42 -> 43",
        "prompt: 'a woman sings' -> 'a man sings'",
        "official: False -> True",
        "extra: (absent) -> None",
        "pose: None -> (absent)",
        "another run name",
        "redo it from",
    ):
        assert text in message
    for name in ("steps", "cfg", "audio"):
        assert f"{name}:" not in message
    assert caught.value.changes["seed"] == (42, 43)
    assert {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))} == before


def test_names_that_an_older_version_did_not_record_count_as_assumed(folder):
    make_run(folder)
    newer = {**FINGERPRINT, "cfg_end": 1.0, "vae": "ab"}
    RunStore.open(folder, newer, assumed={"cfg_end": 1.0, "vae": "ab"}).close()
    with pytest.raises(RunChangedError, match=r"cfg_end: 1\.0 -> 0\.5"):
        RunStore.open(folder, {**newer, "cfg_end": 0.5}, assumed={"cfg_end": 1.0, "vae": "ab"})
    with pytest.raises(RunChangedError, match="seed: 42 -> 43"):  # what is recorded wins
        RunStore.open(folder, {**newer, "seed": 43}, assumed={"cfg_end": 1.0, "vae": "ab", "seed": 43})


def test_long_texts_are_cut_to_where_they_differ(folder):
    make_run(folder, {"prompt": "very " * 200 + "slowly"})
    with pytest.raises(RunChangedError) as caught:
        RunStore.open(folder, {"prompt": "very " * 200 + "quickly"})
    assert "slowly" in str(caught.value)
    assert "quickly" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("old", "new"), [(True, 1), (0, False), (None, 0), ("1", 1), (1.5, 1.25)])
def test_values_of_another_kind_are_changes(folder, old, new):
    make_run(folder, {"value": old})
    with pytest.raises(RunChangedError):
        RunStore.open(folder, {"value": new})


def test_an_integer_equals_the_same_float(folder):
    make_run(folder, {"cfg": 4})
    RunStore.open(folder, {"cfg": 4.0}).close()
