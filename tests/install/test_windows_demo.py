"""The README's commands on a Windows Python with PyTorch, under Wine 10: the doctor, and the demo from its start to its video;
and the unit tests of what deals with files, processes and the network.

It downloads 2 GB and takes half an hour, so only WAN_S2V_WINDOWS_DEMO=1 turns it on.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import av
import pytest

from .tools import TOOLS, copy_checkout, copy_comfyui
from .windows import FOLDER, Windows, python_once, starts
from .windows_torch import install_torch, newer_wine, pytest_once, requirements_of

UNIT_TESTS = ("cli", "runs", "test_files.py", "test_files_held.py", "test_files_taken.py", "test_untrusted.py")
WITHOUT_COMFYUI = "sys.path[:] = [path for path in sys.path if not path.endswith('ComfyUI')]"  # which starts on a GPU, or not at all
RUN_PYTEST = f"import site, sys; {WITHOUT_COMFYUI}; site.addsitedir(sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"
SWITCH = "WAN_S2V_WINDOWS_DEMO"
PREFIX = "wine-torch"
DEMO_S = 3600
FRAMES, FPS, SIDE = 170, 16, 128  # of the sample speech; the size is the demo's


@pytest.fixture(scope="module")
def windows(comfyui_path: Path) -> Windows:
    """The portable build: ComfyUI, its Python with PyTorch, and this checkout among its packs."""
    if os.environ.get(SWITCH) != "1":
        pytest.skip(f"{SWITCH}=1 turns it on: it downloads 2 GB and takes half an hour; nothing was tried with torch on Windows")
    wine, requirements = newer_wine(), list(requirements_of(comfyui_path))
    key = "\n".join(path.read_text(encoding="utf-8") for path in requirements)
    python = python_once(TOOLS / "windows_torch", key, lambda site_packages: install_torch(site_packages, requirements))
    if not starts(wine, python, PREFIX):
        pytest.skip("Wine starts no Windows Python here, so nothing of this was tried")
    folder = TOOLS / "windows_portable"  # Wine sees it at the same place
    made = Windows(folder, "wan_s2v", wine, PREFIX)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy_comfyui(comfyui_path, folder / "ComfyUI")
    copy_checkout(made.pack)
    (folder / FOLDER).symlink_to(python)
    return made


def as_windows_has_it(path: Path) -> str:
    return "Z:" + str(path).replace("/", "\\")


def test_the_demo_makes_its_whole_video(windows):
    comfyui = as_windows_has_it(windows.folder / "ComfyUI")
    code, out, err = windows.run(r"scripts\run_demo.py", cwd=windows.pack, timeout=DEMO_S, COMFYUI_PATH=comfyui)
    print(out)
    assert code == 0, out + err
    (path,) = (windows.pack / ".demo" / "output" / "video").glob("*.mp4")
    with av.open(str(path)) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
        sound_s = float(video.streams.audio[0].duration * video.streams.audio[0].time_base)
    assert len(frames) == FRAMES
    assert sound_s == pytest.approx(FRAMES / FPS, abs=1 / FPS)
    assert {frame.size for frame in frames} == {(SIDE, SIDE)}
    assert all(low < high for low, high in frames[-1].getextrema())


def test_the_doctor_finds_everything_but_the_models(windows):
    code, out, err = windows.run("wan_s2v_cli.py", "doctor", "--json", cwd=windows.pack, timeout=DEMO_S)
    findings = {finding["topic"]: finding for finding in json.loads(out)}
    problems = {topic for topic, finding in findings.items() if finding["status"] == "problem"}
    assert (code, problems) == (1, {"Missing"}), out + err
    assert findings["This pack"]["text"].endswith("nodes load")


def test_the_unit_tests_of_files_processes_and_network_pass(windows):
    temporary = TOOLS / "windows_temporary"
    shutil.rmtree(temporary, ignore_errors=True)  # of an earlier trial: Windows cannot remove names as long as some tests make them
    options = ["-q", "-rs", "-p", "no:cacheprovider", "--basetemp", as_windows_has_it(temporary)]
    tests = [f"tests/unit/{name}" for name in UNIT_TESTS]
    words = ["-c", RUN_PYTEST, as_windows_has_it(pytest_once()), *options, *tests]
    code, out, err = windows.run(*words, cwd=windows.pack, timeout=DEMO_S)
    print(out)
    assert code == 0, out + err
