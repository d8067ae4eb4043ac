"""`cli runs` on real run folders: what it finds, what it says, and that looking changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from wan_s2v_pack.cli import runs
from wan_s2v_pack.cli.models.folders import FolderError
from wan_s2v_pack.cli.runs import report
from wan_s2v_pack.cli.runs.folder import RunsError, find_run, find_runs, is_in_use, read_run
from wan_s2v_pack.cli.runs.verify import verify
from wan_s2v_pack.tests.run_folders import DAY_S, SETTINGS, clip, clip_path, cut_off, flip_last_byte, make_run, names, without_hashes
from wan_s2v_pack.tests.systems import from_checkout
from wan_s2v_pack.wan_s2v_model.runs import manifest
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

ROOT = Path(__file__).resolve().parents[4]


# Reading


def test_facts_of_a_run(runs_folder):
    run = read_run(make_run(runs_folder, "song"))
    assert (run.name, run.manifest.version, run.in_use, run.num_finished, run.num_clips) == ("song", manifest.FIRST_VERSION, False, 3, 4)
    assert (run.num_frames, run.size_px, run.is_finished, run.problem) == (57, (64, 48), False, "")
    assert run.size_bytes == sum(path.stat().st_size for path in run.folder.iterdir())
    assert run.leftovers == run.strange == ()
    assert [item.num_frames for item in run.clips] == [17, 20, 20]
    assert abs(run.changed - time.time()) < 60


def test_looking_changes_nothing(runs_folder):
    folder = make_run(runs_folder, "song")
    (folder / "clip_00003.safetensors.tmp").write_bytes(b"half")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    verify(read_run(folder))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


def test_runs_are_found_by_name(runs_folder):
    for name in ("b", "a"):
        make_run(runs_folder, name, 1)
    (runs_folder / "a file").touch()
    assert [run.name for run in find_runs(runs_folder)] == ["a", "b"]
    assert find_run(runs_folder, "b").num_finished == 1
    assert find_runs(runs_folder / "absent") == []
    with pytest.raises(RunsError, match=r"no run 'c' in .* holds a, b\."):
        find_run(runs_folder, "c")
    with pytest.raises(RunsError, match=r"no run '\.\./wan_s2v_runs/a'"):
        find_run(runs_folder, "../wan_s2v_runs/a")


def test_only_the_leading_whole_clips_count(runs_folder):
    folder = make_run(runs_folder, "song", 4)
    cut_off(clip_path(folder, 2))
    run = read_run(folder)
    assert (run.num_finished, run.num_frames) == (2, 37)
    assert run.clips[2].problem.startswith("is damaged (cut off:")
    clip_path(folder, 0).unlink()
    run = read_run(folder)
    assert (run.num_finished, run.num_frames, run.size_px) == (0, 0, (64, 48))
    assert run.clips[0].problem == "is missing"


def test_a_file_of_other_tensors_is_damaged(runs_folder):
    from safetensors.torch import save_file

    folder = make_run(runs_folder, "song", 2)
    save_file({"latents": torch.zeros(16, 5, 6, 8), "frames": torch.zeros(20, 48, 64, 3)}, clip_path(folder, 0))
    save_file({"latents": torch.zeros(16, 5, 6, 8)}, clip_path(folder, 1))
    problems = [item.problem for item in read_run(folder).clips]
    assert problems == ["is damaged (frames are F32 [20, 48, 64, 3])", "is damaged (no frames)"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no manifest.json"),
        ("{}", "manifest.json is damaged"),
        ("not JSON", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ('{"format": "wan_s2v_run", "version": 1, "fingerprint": {}, "clips": ["../x"]}', "manifest.json is damaged"),
        ('{"format": "wan_s2v_run", "version": 99, "fingerprint": {}, "clips": []}', "made by a newer version of this node pack"),
    ],
)
def test_manifest_that_cannot_be_read(runs_folder, runs_command, text, problem):
    folder = make_run(runs_folder, "song", 1)
    (folder / "manifest.json").unlink()
    if text is not None:
        (folder / "manifest.json").write_text(text)
    run = read_run(folder)
    assert run.problem.startswith(problem)
    assert run.leftovers == ()  # the clips may be of value
    assert runs_command("list")[0] == 0
    assert problem in runs_command("show", "song")[1]
    status, _, errors = runs_command("verify", "song")
    assert status == 1
    assert problem in errors


def test_run_in_use_is_said_to_be(runs_folder, runs_command):
    folder = make_run(runs_folder, "song", 2)
    (folder / "clip_00002.safetensors.tmp").write_bytes(b"half")
    with RunStore.open(folder, SETTINGS) as store:
        (folder / "clip_00002.safetensors.tmp").write_bytes(b"half")
        assert read_run(folder).in_use is True
        assert "in use" in runs_command("list")[1]
        assert "leftover" not in runs_command("list")[1]
        assert "refused until it ends" in runs_command("show", "song")[1]
        status, output, _ = runs_command("verify", "song")
        assert status == 0
        assert "2 clips so far, for it is in use" in output
        assert runs_command("clean")[1] == "nothing to remove\n"
        store.write_clip(2, **clip(2))  # looking did not take the run away
    assert read_run(folder).in_use is False


def test_looking_does_not_keep_others_from_looking(runs_folder):
    folder, seen = make_run(runs_folder, "song", 1), []
    threads = [threading.Thread(target=lambda: seen.extend(is_in_use(folder) for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 200


def test_looking_at_a_folder_without_a_lock_makes_none(runs_folder):
    folder = runs_folder / "empty"
    folder.mkdir()
    assert is_in_use(folder) is False
    assert is_in_use(runs_folder / "absent") is False
    assert list(runs_folder.rglob("*")) == [folder]


@pytest.mark.skipif(sys.platform == "win32", reason="flock is not there")
def test_disk_without_locks(runs_folder, runs_command, monkeypatch):
    make_run(runs_folder, "song", 1)

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert "the disk has no locks" in runs_command("list")[1]
    assert runs_command("delete", "song", "--yes")[0] == 0
    assert names(runs_folder) == []


def test_works_without_torch(runs_folder):
    folder = make_run(runs_folder, "song", 2)
    code = "import sys; sys.modules['torch'] = None\nfrom cli.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    command = [*from_checkout(code), "runs", "verify", folder.name, "--output-dir", str(runs_folder.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run 'song': 2 clips" in done.stdout


# Verify


def test_intact_run_with_hashes(runs_folder, runs_command):
    make_run(runs_folder, "song")
    status, output, _ = runs_command("verify", "song")
    assert status == 0
    assert output == "run 'song': 3 clips; all are as they were written\n"


def test_run_without_hashes(runs_folder, runs_command):
    folder = without_hashes(make_run(runs_folder, "song"))
    status, output, _ = runs_command("verify", "song")
    assert status == 0
    assert output == "run 'song': 3 clips; their files are complete, but the manifest has no hashes\n"
    make_run(runs_folder, "song", 4)
    assert "the manifest has 1 hash" in runs_command("verify", "song")[1]
    cut_off(clip_path(folder, 2))
    assert runs_command("verify", "song")[0] == 1


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(flip_last_byte, "its content has changed"), (cut_off, "cut off"), (Path.unlink, "is missing"), (Path.touch, "")],
)
def test_damage_is_found(runs_folder, runs_command, damage, problem):
    folder = make_run(runs_folder, "song")
    damage(clip_path(folder, 1))
    status, output, _ = runs_command("verify", "song")
    assert status == bool(problem)
    if problem:
        assert output.splitlines()[0].startswith("clip 2: clip_00001.safetensors ")
        assert problem in output
        assert "Set redo_from_clip to 2" in output
        assert "clip 1 is kept" in output
    facts = json.loads(runs_command("verify", "song", "--json")[1])
    assert facts["redo_from_clip"] == (2 if problem else None)
    assert facts["clips_hashed"] == 3


def test_verify_names_all_that_is_wrong_and_reports_progress(runs_folder):
    folder = make_run(runs_folder, "song", 4)
    flip_last_byte(clip_path(folder, 3))
    clip_path(folder, 1).unlink()
    seen = []
    found = verify(read_run(folder), lambda done, total: seen.append((done, total)))
    assert [item.index for item, _ in found.problems] == [1, 3]
    assert found.redo_from == 1
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_files_of_no_run_are_reported(runs_folder, runs_command):
    folder = make_run(runs_folder, "song", 1)
    (folder / "notes.txt").touch()
    (folder / "more").mkdir()
    (folder / "in_progress.mp4").touch()
    clip_path(folder, 7).write_bytes(b"x")
    facts = json.loads(runs_command("verify", "song", "--json")[1])
    assert facts["strange"] == ["more", "notes.txt"]
    assert facts["leftovers"] == ["clip_00007.safetensors"]
    assert "strange: notes.txt: no run has such a file" in runs_command("verify", "song")[1]


# List and show


def test_list(runs_folder, runs_command):
    make_run(runs_folder, "song")
    make_run(runs_folder, "done", 4)
    status, output, _ = runs_command("list")
    assert status == 0
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["name", "clips", "video", "picture", "size", "changed", "format", "state"]
    assert lines[1][:5] == ["done", "4/4", "4.8", "s", "64x48"]
    assert lines[1][-1] == "finished"
    assert lines[2][:5] == ["song", "3/4", "3.6", "s", "64x48"]
    assert lines[2][-3:] == ["can", "be", "continued"]
    assert "2 runs, " in output
    facts = json.loads(runs_command("list", "--json")[1])
    assert [item["name"] for item in facts["runs"]] == ["done", "song"]
    assert facts["runs"][1]["seconds"] == 57 / 16
    assert facts["runs"][1]["in_use"] is False


def test_list_of_nothing(runs_folder, runs_command):
    assert runs_command("list")[1].startswith(f"no runs in {runs_folder}")


@pytest.mark.parametrize(("settings", "seed"), [({}, 45), ({"seed_policy": "same seed"}, 42), ({"seed": 2**64 - 1}, 2)])
def test_show_says_the_seed_of_the_next_clip(runs_folder, runs_command, settings, seed):
    make_run(runs_folder, "song", **settings)
    assert f"samples clip 4 with the noise of seed {seed}." in runs_command("show", "song")[1]


def test_times_of_a_run_go_by_its_frame_rate(runs_folder, runs_command):
    make_run(runs_folder, "song", frame_rate=25)
    assert "64x48, 25 fps, 3/4 clips of 20 frames (0.8 s), 2.3 s finished" in runs_command("show", "song")[1]
    assert json.loads(runs_command("show", "song", "--json")[1])["seconds"] == 57 / 25


def test_show_says_settings_in_words(runs_folder, runs_command):
    make_run(runs_folder, "song")
    status, output, _ = runs_command("show", "song")
    assert status == 0
    for text in (
        "64x48, 3/4 clips of 20 frames (1.25 s), 3.6 s finished, sync aligned",
        "s2v.safetensors (32.6 GB, of 2025-11-22), weight_dtype bf16, precision official",
        "LoRAs       none",
        "40 steps, solver unipc, cfg 4.5, seed 42, invented_later True",
        "prompt 'aa11'",
        "Clips 1 to 3 are kept. The same prompt again samples clip 4 with the noise of seed 45.",
    ):
        assert text in output
    assert "pose" not in output
    table = [line.split() for line in output.splitlines()[-3:]]
    assert [row[:3] for row in table] == [["1", "0:00.000", "17"], ["2", "0:01.062", "20"], ["3", "0:02.312", "20"]]
    assert json.loads(runs_command("show", "song", "--json")[1])["settings"] == {**SETTINGS}


def test_show_says_the_content_of_the_model_file(runs_folder, runs_command):
    make_run(runs_folder, "song", model="content 32600000000 93b0c44298fc1c14 ({'weight_dtype': 'bf16', 'precision': 'official'},)")
    expected = "model       32.6 GB, content 93b0c44298fc1c14, weight_dtype bf16, precision official"
    assert expected in runs_command("show", "song")[1]


def test_show_says_with_what_the_clips_were_made(runs_folder, runs_command):
    path = make_run(runs_folder, "song", 2) / "manifest.json"
    versions = [{"from_clip": 0, "torch": "2.11", "comfyui": "0.30"}, {"from_clip": 1, "torch": "2.12", "comfyui": "0.30"}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "made_with": versions}))
    assert "torch 2.11, comfyui 0.30; torch 2.12, comfyui 0.30, from clip 2 on" in runs_command("show", "song")[1]


def test_show_says_what_the_step_cache_guesses_and_how_wrong_it_was(runs_folder, runs_command):
    path = make_run(runs_folder, "song", 3) / "manifest.json"
    table = {"clip": 0, "prompt": 0, "steps": 40, "guessed": [3, 5], "expected": 0.04, "error": None}
    tables = [table, {**table, "clip": 2, "guessed": [3], "error": 0.0314}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "step_cache": tables}))
    expected = "2 of 40 steps guessed behind clip 1; 1 of 40 steps guessed behind clip 3, after an error of 3.1% there"
    assert expected in " ".join(runs_command("show", "song")[1].split())
    assert json.loads(runs_command("show", "song", "--json")[1])["step_cache"] == tables


@pytest.mark.parametrize(
    ("num_clips", "text"),
    [(0, "The same prompt again samples clip 1"), (1, "Clip 1 is kept."), (4, "samples nothing, unless redo_from_clip is set")],
)
def test_show_says_what_comes_next(runs_folder, runs_command, num_clips, text):
    make_run(runs_folder, "song", num_clips)
    assert text in runs_command("show", "song")[1]


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (report.size_text, 12, "12 B"),
        (report.size_text, 1_234_567, "1.23 MB"),
        (report.size_text, 331_000_000, "331 MB"),
        (report.size_text, 1_234_000_000_000, "1,234 GB"),
        (partial(report.position_text, fps=16), 77, "0:04.812"),
        (partial(report.position_text, fps=16), 16 * 3661, "1:01:01.000"),
        (partial(report.position_text, fps=25), 25 * 3661 + 24, "1:01:01.960"),
    ],
)
def test_figures_in_words(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "just now"), (-5, "just now"), (60, "1 minute ago"), (7_300, "2 hours ago"), (90_000, "1 day ago")]
)
def test_ages_in_words(seconds, text):
    assert report.age_text(2e9 - seconds, 2e9) == text


def test_a_date_for_what_is_long_ago_or_in_the_future():
    assert report.age_text(2e9 - 60 * DAY_S, 2e9) == "2033-03-19"
    assert report.age_text(2e9 + 3 * DAY_S, 2e9).startswith("2033-05-2")


# Where the runs are


def test_runs_of_the_comfyui_that_is_found(tmp_path):
    comfyui = tmp_path / "ComfyUI"
    comfyui.mkdir()
    for name in ("main.py", "folder_paths.py"):
        (comfyui / name).touch()
    assert runs.find_place(comfyui, None) == comfyui / "output" / "wan_s2v_runs"
    assert runs.find_place(comfyui, tmp_path) == tmp_path / "wan_s2v_runs"
    with pytest.raises(FolderError, match="--output-dir"):
        runs.find_place(comfyui, tmp_path / "absent")


def test_errors_leave_status_1(runs_folder, runs_command, monkeypatch):
    assert runs_command("show", "nope")[0] == 1
    monkeypatch.setattr(
        runs, "find_runs", lambda runs_folder: (_ for _ in ()).throw(PermissionError(13, "Permission denied", str(runs_folder)))
    )
    status, _, errors = runs_command("list")
    assert status == 1
    assert errors == f"{runs_folder} cannot be used: Permission denied.\n"
