"""What ComfyUI does not know of a named run: a changed folder, and a list of inputs under one name."""

import errno
import os

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.runs import takes
from wan_s2v_pack.wan_s2v_model.runs.changes import Notes
from wan_s2v_pack.wan_s2v_model.runs.manifest import MANIFEST_NAME
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore
from wan_s2v_pack.wan_s2v_model.runs.takes import HandedOn, LookAtRuns, Takes

INPUTS = {"seed": 42, "steps": 4}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text("{}")
    return tmp_path


def test_a_run_that_nobody_touched_is_not_made_again(folder):
    runs = HandedOn()
    assert runs.count("song", INPUTS) == 0
    runs.note("song", folder)
    assert [runs.count("song", dict(reversed(INPUTS.items()))) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("change", [lambda file: file.unlink(), lambda file: file.write_text("{ }")], ids=["deleted", "changed"])
def test_a_run_that_was_deleted_or_changed_is_made_again_once(folder, change):
    runs = HandedOn()
    runs.count("song", INPUTS)
    runs.note("song", folder)
    change(folder / MANIFEST_NAME)
    assert [runs.count("song", INPUTS), runs.count("song", INPUTS)] == [1, 1]
    runs.note("song", folder)
    assert runs.count("song", INPUTS) == 1


def test_other_inputs_have_a_count_of_their_own(folder):
    runs = HandedOn()
    runs.count("song", INPUTS)
    runs.note("song", folder)
    (folder / MANIFEST_NAME).unlink()
    assert runs.count("song", {**INPUTS, "seed": 43}) == 0
    assert runs.count("song", INPUTS) == 1


def test_inputs_of_a_list_get_names_of_their_own_in_every_queue():
    takes = Takes()
    for prompt in ("first", "second"):
        names = [takes.name(name, (prompt, "7", item)) for item, name in enumerate(["song", "song", "talk", "song"])]
        assert names == ["song", "song_2", "talk", "song_3"]


def test_another_node_and_a_run_without_a_name_stay_as_they_are():
    takes = Takes()
    assert takes.name("song", ("prompt", "7", 0)) == "song"
    assert takes.name("song", ("prompt", "8", 0)) == "song"
    assert takes.name("song", None) == "song"
    assert [takes.name("", ("prompt", "9", item)) for item in range(2)] == ["", ""]


FINGERPRINT = {"seed": 42, "prompt": "0123456789abcdef"}


def make_run(folder, fingerprint, words=""):
    with RunStore.open(folder, fingerprint, Notes(words={"prompt": words})) as store:
        store.write_clip(0, latents=torch.zeros(16, 5, 6, 8), motion_latents=None, frames=torch.zeros(17, 48, 64, 3, dtype=torch.uint8))


def chosen(runs, fingerprint, words="", place=("p", "7", 0), takes=None):
    """The name that these inputs get, and what is said of it."""
    look = LookAtRuns(runs, fingerprint, Notes(words={"prompt": words}))
    name = (takes or Takes()).name("song", place, look.may_go_on)
    return name, look.take(name)


def test_other_inputs_make_a_take_beside_the_run(tmp_path):
    other = {**FINGERPRINT, "prompt": "1" * 16}
    assert chosen(tmp_path, FINGERPRINT) == ("song", "")
    make_run(tmp_path / "song", FINGERPRINT, "a man")
    assert chosen(tmp_path, FINGERPRINT) == ("song", "")
    expected = "\nkept as run 'song_2'; run 'song' has other inputs: prompt: 'a man' -> 'a woman'"
    assert chosen(tmp_path, other, "a woman") == ("song_2", expected)
    make_run(tmp_path / "song_2", other, "a woman")
    assert chosen(tmp_path, other)[0] == "song_2", "it goes on"
    assert chosen(tmp_path, FINGERPRINT)[0] == "song", "the first one is still there"
    assert chosen(tmp_path, {**FINGERPRINT, "seed": 43})[0] == "song_3"


def test_a_run_that_cannot_be_read_is_left_alone(tmp_path):
    (tmp_path / "song").mkdir()
    (tmp_path / "song" / MANIFEST_NAME).write_text("{")
    assert chosen(tmp_path, FINGERPRINT) == ("song_2", "\nkept as run 'song_2'; run 'song' is damaged or no run manifest")


def test_a_run_that_cannot_be_read_now_gets_no_other_take(tmp_path, monkeypatch):
    """A stale handle or a missing permission began the video anew beside it; opening the run says what is wrong."""
    make_run(tmp_path / "song", FINGERPRINT)

    def refused(_folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(takes, "read_manifest", refused)
    assert chosen(tmp_path, FINGERPRINT) == ("song", "")


def test_a_list_whose_first_input_changes_keeps_the_other_take(tmp_path):
    other = {**FINGERPRINT, "prompt": "1" * 16}
    make_run(tmp_path / "song", FINGERPRINT)
    make_run(tmp_path / "song_2", other)
    takes = Takes()
    changed = {**FINGERPRINT, "seed": 43}
    names = [chosen(tmp_path, inputs, "", ("p", "7", item), takes)[0] for item, inputs in enumerate((changed, other))]
    assert names == ["song_3", "song_2"]
