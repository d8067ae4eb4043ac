"""The command line and the files of runs on a real Windows Python, under Wine; skipped where Wine is not installed.

Torch needs a newer Wine than most systems have, so what is tried here is what works without it; test_windows_demo.py has the rest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wan_s2v_pack.tests.run_folders import make_run

from .tools import ROOT, TOOLS
from .windows import FOLDER, TIMEOUT_S, Windows, python_once, starts

NAME = "你好 Ünïcode"
WHEELS = ("filelock", "requests", "aiohttp", "psutil", "huggingface_hub", "colorama")
HELD = r"""
import os, subprocess, sys
from pathlib import Path
sys.path.insert(0, r"ComfyUI\custom_nodes\wan-s2v")
from wan_s2v_model import files

HOLD = "import sys, time; file = open(sys.argv[1], 'rb'); print(1, flush=True); time.sleep(float(sys.argv[2]))"

def held(path, seconds):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], **options)
    process.stdout.readline()
    return process

path, other = Path("manifest.json"), Path("other")
path.write_bytes(b"old"); other.write_bytes(b"x")
with held(path, 1.5):
    try:
        os.replace(other, path)
        raise SystemExit("Wine lets a file be replaced that is open: nothing is tried here")
    except PermissionError as error:
        assert error.winerror in files.HELD, error.winerror
    files.write_atomically(path, b"new")
assert path.read_bytes() == b"new"
with held(path, 1.5):
    files.remove(path)
assert not path.exists()
path.write_bytes(b"old")
process = held(path, 60)
try:
    files.write_atomically(path, b"new")
    raise SystemExit("written although it is open")
except PermissionError:
    assert path.read_bytes() == b"old"
finally:
    process.kill()
assert not Path("manifest.json.tmp").exists()
lock = files.lock_file(Path("run.lock"))
assert files.is_held(Path("run.lock"))
lock.release()
assert not files.is_held(Path("run.lock"))
with files.reading(Path(".")):
    assert files.has_readers(Path("."))
assert not files.has_readers(Path("."))
print("all is well")
"""


@pytest.fixture(scope="session")
def python_embeded() -> Path:
    """The embeddable Python with what ComfyUI's has beside torch."""
    if shutil.which("wine") is None:
        pytest.skip("Wine is not installed, so nothing of this was tried on a Windows Python")
    folder = python_once(TOOLS / FOLDER, " ".join(WHEELS), install_wheels)
    if not starts(["wine"], folder):
        pytest.skip("Wine starts no Windows Python here, so nothing of this was tried")
    return folder


def install_wheels(site_packages: Path) -> None:
    wheels = ["--platform", "win_amd64", "--python-version", "3.13", "--only-binary=:all:"]
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "install", *wheels, "--target", site_packages, *WHEELS], check=True)


@pytest.fixture
def windows(python_embeded: Path, tmp_path: Path) -> Windows:
    portable = Windows(tmp_path)
    (tmp_path / FOLDER).symlink_to(python_embeded)
    pack = portable.pack
    for name in ("cli", "wan_s2v_model"):
        shutil.copytree(ROOT / name, pack / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wan_s2v_cli.py", "pyproject.toml"):
        shutil.copyfile(ROOT / name, pack / name)
    for name in ("main.py", "folder_paths.py", "comfyui_version.py"):
        (tmp_path / "ComfyUI" / name).write_text('__version__ = "0.30.0"\n')
    (tmp_path / "ComfyUI" / "models").mkdir()
    return portable


@pytest.mark.slow
def test_runs_of_any_name_are_listed_checked_and_deleted(windows):
    for name in (NAME, "song"):
        make_run(windows.runs, name)
    code, out, err = windows.cli("runs", "list")
    assert (code, err) == (0, "")
    assert r"\u4f60\u597d Ünïcode" in out
    assert windows.cli("runs", "verify", "song")[0] == 0
    at_once = [windows.start(r"ComfyUI\custom_nodes\wan-s2v\wan_s2v_cli.py", "runs", "list", "--json") for _ in range(3)]
    found = [json.loads(process.communicate(timeout=TIMEOUT_S)[0])["runs"] for process in at_once]
    assert [[(run["name"], run["in_use"]) for run in runs] for runs in found] == [[("song", False), (NAME, False)]] * 3
    assert windows.cli("runs", "delete", "song", "--yes")[0] == 0
    assert [path.name for path in windows.runs.iterdir()] == [NAME]


@pytest.mark.slow
def test_the_printed_command_is_that_of_this_python(windows):
    code, _, err = windows.cli("runs", "delete", "nothing")
    assert code == 1
    assert r"python_embeded\python.exe ComfyUI\custom_nodes\wan-s2v\wan_s2v_cli.py runs list`" in err


@pytest.mark.slow
def test_the_doctor_finds_comfyui_and_names_the_download(windows):
    code, out, _ = windows.cli("doctor", "--json")
    findings = {finding["topic"]: finding for finding in json.loads(out)}
    assert code == 1
    assert findings["ComfyUI"]["status"] == "ok"
    assert findings["ComfyUI"]["text"].endswith(r"\ComfyUI")
    assert "wan_s2v_cli.py download --only model,text,audio,vae" in findings["Missing"]["advice"]


@pytest.mark.slow
def test_files_that_another_program_has_open(windows):
    (windows.folder / "held.py").write_text(HELD, encoding="utf-8")
    assert windows.run("held.py") == (0, "all is well\r\n", "")
