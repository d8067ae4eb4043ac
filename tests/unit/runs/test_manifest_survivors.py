"""Changes of the manifest's code that no test noticed before: found by mutation."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from wan_s2v_pack.tests.systems import needs_links
from wan_s2v_pack.wan_s2v_model.runs.manifest import (
    Manifest,
    ManifestError,
    clip_bytes,
    clip_file_problem,
    clip_problem,
    clip_shapes,
    read_manifest,
    value_at,
)
from wan_s2v_pack.wan_s2v_model.untrusted import NO_PLAIN_FILE, NotPlainError

LARGEST = 2**64 - 1
WHOLE = Manifest(
    version=2,
    fingerprint={"seed": 42, "clips": 8, "frame_rate": 25},
    hashes=("ab", "", "cd"),
    made_with=({"from_clip": 0, "torch": "2.11"}, {"from_clip": 2, "torch": "2.12"}),
    redone_from=1,
    in_progress=(0, 2),
    words={"prompt": "a woman sings"},
    by_clip={"prompt": [(0, "aa"), (2, "bb")]},
    step_cache=({"clip": 0, "prompt": 0}, {"clip": 2, "prompt": 0}),
)


def written(folder, **changes):
    (folder / "manifest.json").write_text(json.dumps({**json.loads(WHOLE.encode()), **changes}))
    return folder


def test_all_that_is_written_is_read(tmp_path):
    assert read_manifest(written(tmp_path)) == WHOLE


def test_what_a_run_does_not_have_is_not_written():
    assert list(json.loads(Manifest(hashes=("",)).encode())) == ["format", "version", "fingerprint", "clips"]


def test_a_manifest_is_text_that_people_can_read():
    assert b'\n "clips": [\n  "clip_00000.safetensors",\n' in WHOLE.encode()


def test_no_number_that_is_none_is_written():
    with pytest.raises(ValueError, match="JSON"):
        replace(WHOLE, fingerprint={"cfg": float("nan")}).encode()


@pytest.mark.parametrize("rate", [1, 16, 25, 240])
def test_frame_rates_that_are_read(tmp_path, rate):
    assert read_manifest(written(tmp_path, fingerprint={"frame_rate": rate})).frame_rate == rate


@pytest.mark.parametrize("rate", [0, -1, 241, 10**9, 25.0, "25", True])
def test_frame_rates_that_are_refused(tmp_path, rate):
    with pytest.raises(ManifestError, match="damaged"):
        read_manifest(written(tmp_path, fingerprint={"frame_rate": rate}))


def test_numbers_up_to_the_largest_seed_are_read(tmp_path):
    folder = written(tmp_path, fingerprint={"seed": LARGEST, "shift": -LARGEST, "official": True, "pose": None}, redone_from=LARGEST)
    assert read_manifest(folder).fingerprint["seed"] == read_manifest(folder).redone_from == LARGEST


@pytest.mark.parametrize(
    "change", [{"fingerprint": {"seed": LARGEST + 1}}, {"fingerprint": {"seed": -LARGEST - 1}}, {"redone_from": LARGEST + 1}]
)
def test_larger_numbers_are_refused(tmp_path, change):
    with pytest.raises(ManifestError, match="damaged"):
        read_manifest(written(tmp_path, **change))


@pytest.mark.parametrize(("kept", "shown"), [(0, []), (2, []), (3, [2]), (4, [2, 3]), (9, [2, 3])])
def test_the_video_in_progress_holds_clips_that_are_kept(kept, shown):
    assert list(Manifest(in_progress=(2, 4)).shown(kept)) == shown
    assert list(Manifest().shown(kept)) == []


def test_what_dropped_clips_have_taught_is_forgotten():
    assert WHOLE.taught(2, is_other=False) == [{"clip": 0, "prompt": 0}]
    assert WHOLE.taught(3, is_other=True) == [{"clip": 0, "prompt": None}, {"clip": 2, "prompt": None}]


def test_a_value_holds_from_its_clip_on():
    spans = [(1, "a"), (3, "b")]
    assert [value_at(spans, clip) for clip in range(5)] == [None, "a", "a", "b", "b"]


def test_shapes_of_a_clip():
    size = {"num_frames": 45, "frames_per_clip": 48, "height": 96, "width": 64}
    shared = {"latents": (16, 12, 12, 8), "frames": (45, 96, 64, 3)}
    assert clip_shapes(**size, has_next=False) == shared
    assert clip_shapes(**size, has_next=True) == {**shared, "motion_latents": (1, 16, 19, 12, 8)}
    live = clip_shapes(**size, has_next=True, later_steps=3)
    assert live == {**shared, "step_inputs": (4, 3, 16, 3, 12, 8)}, "of 4 blocks of 3 latents each"
    values = 16 * 12 * 12 * 8 + 4 * 3 * 16 * 3 * 12 * 8
    assert clip_bytes(**size, has_next=True, later_steps=3) == 4 * values + 45 * 96 * 64 * 3


def test_a_clip_without_its_latents_or_frames_is_none():
    latents, frames = {"dtype": "F32", "shape": [16, 5, 6, 8]}, {"dtype": "U8", "shape": [17, 48, 64, 3]}
    assert clip_problem({"latents": latents, "frames": frames}) == ""
    assert clip_problem({"frames": frames}) == "no latents"
    assert clip_problem({"latents": latents}) == "no frames"
    assert clip_problem({}) == "no latents, frames"


@needs_links
def test_a_manifest_that_is_a_link_is_not_read(tmp_path):
    """It would be another run's, or any file of the machine."""
    (tmp_path / "other").mkdir()
    (tmp_path / "manifest.json").symlink_to(written(tmp_path / "other") / "manifest.json")
    with pytest.raises(NotPlainError):
        read_manifest(tmp_path)


@needs_links
def test_a_clip_that_is_a_link_is_not_read(tmp_path):
    real = tmp_path / "elsewhere.safetensors"
    save_file({"latents": torch.zeros(16, 2, 8, 8), "frames": torch.zeros(5, 64, 64, 3, dtype=torch.uint8)}, real)
    assert clip_file_problem(real) == clip_file_problem(real.rename(tmp_path / "clip_00000.safetensors"))
    (tmp_path / "clip_00001.safetensors").symlink_to(tmp_path / "clip_00000.safetensors")
    assert clip_file_problem(tmp_path / "clip_00001.safetensors") == f"is damaged ({NO_PLAIN_FILE})"
