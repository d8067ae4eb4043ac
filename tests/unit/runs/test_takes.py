"""What ComfyUI does not know of a named run: a changed folder, and a list of inputs under one name."""

import pytest
from wan_s2v_pack.wan_s2v_model.runs.manifest import MANIFEST_NAME
from wan_s2v_pack.wan_s2v_model.runs.takes import HandedOn, Takes

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
