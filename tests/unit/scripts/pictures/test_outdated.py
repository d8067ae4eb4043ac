"""A picture that shows something else than there is now is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image
from wan_s2v_pack.scripts.pictures import outdated
from wan_s2v_pack.scripts.pictures.marks import mark, mark_of, save_marked

SCENE = outdated.SCENES["WanS2VSampler"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_mark_stays_in_the_file(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    picture = Image.new("RGB", (8, 8))
    picture.save(path)
    assert mark_of(path) == ""
    save_marked(picture, path, mark("a", 1), optimize=True)
    assert mark_of(path) == mark("a", 1) != mark("a", 2)


@pytest.fixture
def pictures(tmp_path):
    """A checkout whose pictures are all new."""
    for path, _, mark_now in outdated._pictures(tmp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_marked(Image.new("RGB", (8, 8)), path, mark_now())
    return tmp_path


def test_new_pictures_are_not_named(pictures):
    assert list(outdated.outdated_pictures(pictures)) == []


def test_missing_and_unmarked_pictures_are(pictures):
    missing, unmarked = pictures / "web/docs/images/WanS2VSampler.png", pictures / "workflows/Lip sync a song (Wan S2V).jpg"
    missing.unlink()
    Image.new("RGB", (8, 8)).save(unmarked)
    found = dict(outdated.outdated_pictures(pictures))
    assert found == {missing: outdated.HELP_PICTURES, unmarked: "python scripts/pictures/thumbnails.py"}


def test_pictures_of_a_node_that_has_changed_are(pictures, monkeypatch):
    """A new default of the sampler shows on the picture of the sampler, and on no other."""
    recorded = outdated.read_snapshot()
    recorded["WanS2VSampler"]["required"][0]["default"] = "another"
    monkeypatch.setattr(outdated, "read_snapshot", lambda: recorded)
    assert {path.stem for path, _ in outdated.outdated_pictures(pictures)} == {"WanS2VSampler"}


def test_a_scene_that_has_changed_is():
    assert outdated.scene_mark("WanS2VSampler", SCENE) == outdated.scene_mark("WanS2VSampler", replace(SCENE))
    assert outdated.scene_mark("WanS2VSampler", SCENE) != outdated.scene_mark("WanS2VSampler", replace(SCENE, size=(1, 2)))
