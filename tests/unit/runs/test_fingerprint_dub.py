"""A dubbed video decides a run by its content: the bytes of its file with the part that is used, or its pictures."""

import hashlib
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.systems import needs_links
from wan_s2v_pack.wan_s2v_model.conditioning.dub import Dub, SourceImages
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Plan
from wan_s2v_pack.wan_s2v_model.conditioning.regions import SpeakerRegions
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.runs import fingerprint
from wan_s2v_pack.wan_s2v_model.runs.fingerprint import speakers_of

FILM = b"film" * 2_000_000  # more than is read at once


def plan_of(dub=None):
    timeline = plan_timeline(160_000, 16_000, 160_000)
    sound = torch.ones(2, 3, 160), torch.ones(1, 160_000), 16_000
    return Plan(timeline, 480, 832, *sound, torch.ones(1, 16, 1, 4, 4), dub=dub and SimpleNamespace(dub=dub))


def images(value=0.5, fps=10):
    return SourceImages(torch.full((4, 8, 8, 3), value), fps)


def dub_of(video=None, value=1.0, **options):
    return Dub(video or images(), torch.full((1, 8, 8), value), **options)


def file_of(source, start_s=1.5, length_s=10.0):
    return SimpleNamespace(file=(source, start_s, length_s))


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (dub_of(images(0.6)), "source_video"),
        (dub_of(images(fps=12)), "source_video"),
        (dub_of(value=0.5), "source_mask"),
        (dub_of(feather_px=8), "dub"),
        (dub_of(end="loop"), "dub"),
        (dub_of(strength=0.5), "dub_strength"),
    ],
)
def test_each_part_of_a_dub_shows_under_its_own_name(other, name):
    before, after = (fingerprint._dub(plan_of(dub)) for dub in (dub_of(), other))
    assert {key for key in before if before[key] != after[key]} == {name}
    assert fingerprint._dub(plan_of(dub_of())) == before


def test_a_video_that_is_not_dubbed_has_no_source():
    assert fingerprint._dub(plan_of()) == {"source_video": "", "source_mask": "", "dub": "", "dub_strength": 1.0}


@pytest.mark.parametrize("kind", ["path", pytest.param("link", marks=needs_links), "memory"])
def test_a_file_counts_by_all_of_its_bytes(tmp_path, kind):
    path = tmp_path / "film.mp4"
    path.write_bytes(FILM)
    if kind == "link":
        path = tmp_path / "link.mp4"
        path.symlink_to(tmp_path / "film.mp4")
    content = fingerprint._content(file_of(BytesIO(FILM) if kind == "memory" else str(path)))
    assert content == f"{hashlib.sha256(FILM).hexdigest()[:16]} from 1.5 s, 10.0 s"


@pytest.mark.parametrize("lacks", ["speakers", "regions"])
def test_speakers_count_only_with_their_regions(lacks):
    there = {"speakers": SimpleNamespace(), "regions": SpeakerRegions(torch.ones(4, 1, 2, 2), "silence", True, 16.0)}
    assert speakers_of(replace(plan_of(), **{**there, lacks: None})) == ""
