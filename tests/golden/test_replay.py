"""The replay tool passes on the stored results, and fails on whatever is wrong or unknown."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wan_s2v_pack.tests.golden.case import difference
from wan_s2v_pack.tests.golden.comfyui import ComfyUINotFoundError, comfyui_path
from wan_s2v_pack.tests.golden.folder import find_jobs
from wan_s2v_pack.tests.golden.report import replay_folder

REPLAY = Path(__file__).parent / "replay.py"
ROWS = {"preprocess": 9, "solver": 48, "forward": 16, "audio": 22}  # compared rows of the stored results
ROWS_THROUGH_COMFYUI = {"vae": 1, "e2e": 23, "live": 25}


def run_replay(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, REPLAY, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ROWS)
def test_kind(golden_folder, capsys, kind):
    assert replay_folder(golden_folder, kind)
    output = capsys.readouterr().out
    assert "all rows ok" in output
    assert counted_rows(output) == {kind: ROWS[kind]}


@pytest.mark.comfy
@pytest.mark.slow
def test_whole_folder_from_another_place(golden_folder, tmp_path):
    try:
        comfyui_path()
    except ComfyUINotFoundError as error:
        pytest.skip(str(error))
    moved = tmp_path / "a folder"
    shutil.copytree(golden_folder, moved)
    done = run_replay(moved.name, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert counted_rows(done.stdout) == ROWS | ROWS_THROUGH_COMFYUI


def counted_rows(output: str) -> dict[str, int]:
    """Compared rows by kind, from the summary."""
    return {kind: int(rows) for kind, rows in re.findall(r"^(\w+) +\d+ cases +(\d+) rows +0 failed", output, re.MULTILINE)}


def test_failing_exit_status(golden_folder, tmp_path):
    solver_folder(golden_folder, tmp_path)
    assert run_replay(tmp_path, "--only", "solver", cwd=tmp_path).returncode == 0
    change(tmp_path, lambda tensors: tensors["x_init"].add_(1e-3))
    done = run_replay(tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def solver_folder(golden_folder: Path, folder: Path) -> None:
    """A small set: one case, no models."""
    shutil.copytree(golden_folder / "solver", folder / "solver")


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], name: str = "solver/trajectories") -> None:
    """Rewrite a case with its tensors edited."""
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    edit(tensors)
    save_file(tensors, path, metadata=metadata)


SAMPLES = "unipc.steps10.shift3.samples"
CHANGED_TENSORS = {
    "unknown tensor": lambda tensors: tensors.update(extra=torch.zeros(1)),
    "unknown solver euler": lambda tensors: tensors.update({"euler.steps4.shift3.samples": torch.zeros(1)}),
    "the input A is missing": lambda tensors: tensors.pop("A"),
    "shape [11, 1, 4, 2, 3, 3] instead of [10, 1, 4, 2, 3, 3]": lambda tensors: tensors.update({SAMPLES: tensors[SAMPLES][1:].clone()}),
    "5e-06 FAILED": lambda tensors: tensors[SAMPLES][3].mul_(1.0001),
    "nan     5e-06 FAILED": lambda tensors: tensors[SAMPLES][3, 0, 0].fill_(torch.nan),
}
CHANGED_FILES = {
    "solver/more.npz": lambda solver: (solver / "more.npz").touch(),
    "SafetensorError": lambda solver: (solver / "broken.safetensors").write_bytes(b"no tensors"),
    "unknown file": lambda solver: solver.rename(solver.with_name("solvers")),
    "trajectories.safetensors": lambda solver: (solver / "trajectories.safetensors").rename(solver.parent / "trajectories.safetensors"),
    "no case found": shutil.rmtree,
}


@pytest.mark.parametrize("message", CHANGED_TENSORS)
def test_changed_tensor(golden_folder, tmp_path, capsys, message):
    solver_folder(golden_folder, tmp_path)
    change(tmp_path, CHANGED_TENSORS[message])
    assert not replay_folder(tmp_path)
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("message", CHANGED_FILES)
def test_changed_file(golden_folder, tmp_path, capsys, message):
    solver_folder(golden_folder, tmp_path)
    CHANGED_FILES[message](tmp_path / "solver")
    assert not replay_folder(tmp_path)
    assert message in capsys.readouterr().out


def test_folder_that_is_not_there(tmp_path):
    done = run_replay("missing", cwd=tmp_path)
    assert done.returncode == 1
    assert "missing is not a folder" in done.stdout


def test_resampled_sound_is_reported_only(golden_folder, tmp_path):
    shutil.copytree(golden_folder / "audio", tmp_path / "audio")

    def as_if_resampled(tensors: dict[str, torch.Tensor]) -> None:
        tensors["wave_16k_mono"] = tensors["wave_i16"][0].float() / 32768
        tensors["wave_i16"] = tensors["wave_i16"].repeat_interleave(3, dim=1).repeat(2, 1)
        tensors["meta.sr_T_M"][0] = 48_000

    change(tmp_path, as_if_resampled, "audio/clip_1p1s")
    rows = [row for job in find_jobs(tmp_path, "audio") for row in job.rows()]
    (resampled,) = (row for row in rows if row.tensor == "wave_16k_mono")
    assert resampled.tolerance is None
    assert resampled.error > 1e-4
    assert all(row.ok for row in rows)


def test_difference():
    assert difference(torch.tensor([1, 2]), torch.tensor([1, 4]))[0] == 2
    assert difference(torch.zeros(2), torch.zeros(2, 1)) == (float("inf"), "shape [2] instead of [2, 1]")
