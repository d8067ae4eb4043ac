"""The format of a run folder, and what a clip takes on the disk."""

import json
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.runs.manifest import (
    CLIP_TENSORS,
    Manifest,
    ManifestError,
    NewerManifestError,
    clip_bytes,
    clip_problem,
    clip_shapes,
    read_manifest,
)
from wan_s2v_pack.wan_s2v_model.runs.store import DTYPES, RunStore

ROOT = Path(__file__).resolve().parents[3]
HEADER_BYTES = 1000  # at most
MANIFEST = Manifest(
    fingerprint={"seed": 42, "prompt": "a woman sings", "clips": 3},
    hashes=("ab", ""),
    made_with=({"from_clip": 0, "torch": "2.11"},),
    redone_from=1,
    step_cache=({"clip": 0, "prompt": 0, "steps": 40, "guessed": [3, 5], "expected": 0.04, "error": None},),
)


def test_what_is_written_is_read(tmp_path):
    (tmp_path / "manifest.json").write_bytes(MANIFEST.encode())
    assert read_manifest(tmp_path) == MANIFEST
    assert json.loads(MANIFEST.encode())["clips"] == ["clip_00000.safetensors", "clip_00001.safetensors"]


def test_absent_and_unreadable_manifests_are_errors_of_the_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(OSError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": "1"},
        {"clips": ["clip_00001.safetensors"]},
        {"clips": None},
        {"fingerprint": 7},
        {"made_with": [1]},
        {"step_cache": [1]},
    ],
)
def test_damaged_manifest(tmp_path, change):
    (tmp_path / "manifest.json").write_text(json.dumps({**json.loads(MANIFEST.encode()), **change}))
    with pytest.raises(ManifestError, match="damaged"):
        read_manifest(tmp_path)


def test_manifest_of_a_newer_version_is_told_whatever_else_it_holds(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "wan_s2v_run", "version": 3}))
    with pytest.raises(NewerManifestError, match="newer version"):
        read_manifest(tmp_path)


def test_tensors_of_a_clip():
    shapes = {**clip_shapes(17, 20, 48, 64, has_next=True), "history": (73, 48, 64, 3), "step_inputs": (1, 3, 16, 3, 6, 8)}
    header = {name: {"dtype": kind.dtype, "shape": list(shapes[name])} for name, kind in CLIP_TENSORS.items()}
    assert clip_problem(header) == ""
    assert clip_problem({name: header[name] for name in ("latents", "frames")}) == ""
    assert clip_problem({"latents": header["latents"]}) == "no frames"
    for name, shape in {
        "latents": [4, 5, 6, 8],
        "frames": [17, 48, 32, 3],
        "motion_latents": [1, 16, 19, 6, 4],
    }.items():
        assert clip_problem({**header, name: {**header[name], "shape": shape}}) == f"{name} are {shape}"
    assert clip_problem({**header, "frames": {"dtype": "U8", "shape": [0, 48, 64, 3]}}) == "frames are [0, 48, 64, 3]"
    assert clip_problem({**header, "frames": {"dtype": "F32", "shape": [1, 2, 3, 3]}}) == "frames are F32 [1, 2, 3, 3]"


@pytest.mark.parametrize("has_next", [True, False])
@pytest.mark.parametrize("frames", [4, 16, 48, 80, 120])
def test_bytes_of_a_clip_are_those_of_its_file(tmp_path, frames, has_next):
    size = {"num_frames": frames - 3, "frames_per_clip": frames, "height": 48, "width": 64, "has_next": has_next}
    tensors = {name: torch.zeros(shape, dtype=DTYPES[CLIP_TENSORS[name].dtype]) for name, shape in clip_shapes(**size).items()}
    with RunStore.open(tmp_path / "song", {}) as store:
        store.write_clip(0, **{"motion_latents": None, **tensors})
    header = (tmp_path / "song" / "clip_00000.safetensors").stat().st_size - clip_bytes(**size)
    assert 0 < header < HEADER_BYTES


@pytest.mark.parametrize("frames", [80, 48, 16])
def test_figures_of_the_documentation(frames):
    text = " ".join((ROOT / "docs" / "runs.md").read_text(encoding="utf-8").split())
    assert f"{round(clip_bytes(frames, frames, 480, 832, has_next=True) / 1e6)} MB with {frames}" in text


@pytest.mark.parametrize(("fingerprint", "version", "fps"), [({}, 1, 16), ({"frame_rate": 16}, 1, 16), ({"frame_rate": 25}, 2, 25)])
def test_only_what_an_older_pack_would_misread_gets_a_newer_version(fingerprint, version, fps, tmp_path):
    (tmp_path / "manifest.json").write_bytes(Manifest(fingerprint=fingerprint).encode())
    found = read_manifest(tmp_path)
    assert (found.version, found.frame_rate) == (version, fps)
