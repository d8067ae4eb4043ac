"""Every snippet of docs/api.md runs as it stands; only the server's address is another one."""

from __future__ import annotations

import re
import shutil
import sys

import pytest

from .commands import FPS, SECONDS, Workplace, make_workplace
from .graphs import ROOT, quick_start
from .rendering import open_video

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8188"
MOST_LINES = 30


def blocks(section: str, language: str) -> list[str]:
    """The snippets of one language under a heading."""
    text = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def num_snippets() -> int:
    return len(re.findall(r"^```\w", PAGE, re.MULTILINE))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, comfyui_path, base_directory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("api"), comfyui_path, base_directory / "models")


@pytest.fixture
def run(workplace, server):
    """Run a snippet and return what it printed."""

    def run_snippet(text: str, *command: str) -> str:
        for program in set(re.findall(r"\b(curl|jq)\b", text)):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        for old in workplace.folder.glob("*.mp4"):
            old.unlink()
        done = workplace.shell(text.replace(ADDRESS, server.url), *command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_snippet


def check_video(path, seconds=SECONDS):
    video = open_video(path)
    assert video.num_frames == round(seconds * FPS)
    assert video.sound_seconds == pytest.approx(seconds, abs=1 / FPS)


ONE_COMMAND = blocks("One command", "bash")
BASH = ("bash", "-euo", "pipefail", "-s")
PYTHON = (sys.executable, "-")


def test_all_snippets_are_run_here():
    sections = ("curl", "Python, with the client of this pack", "Python, by itself")
    counted = [*ONE_COMMAND, *(block for name in sections for language in ("bash", "python") for block in blocks(name, language))]
    assert len(ONE_COMMAND) == 5
    assert len(counted) == num_snippets()


def test_command_that_starts_a_server(run, workplace):
    printed = run(ONE_COMMAND[0], *BASH)
    check_video(workplace.folder / "talk.mp4")
    assert re.fullmatch(r"video made in [\d.]+ s: .*talk\.mp4\n", printed)
    left = [path for path in (workplace.comfyui / "output").rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".mp4"], "the server's own copy and nothing else"
    assert not (workplace.comfyui / "custom_nodes").exists()


def test_command_with_a_running_server(run, workplace):
    run(ONE_COMMAND[1], *BASH)
    check_video(workplace.folder / "talk.mp4")


def test_command_with_a_run_name(run, workplace, server):
    run(ONE_COMMAND[2], *BASH)
    check_video(workplace.folder / "outputs" / "output.mp4", seconds=1.5)
    assert (server.output_directory / "wan_s2v_runs" / "first try" / "manifest.json").is_file()


def test_command_that_only_looks(run, workplace):
    printed = run(ONE_COMMAND[3], *BASH)
    assert f"video: {SECONDS:.2f} s" in printed
    assert printed.endswith("Nothing was uploaded, and nothing ran.\n")
    assert not list(workplace.folder.glob("*.mp4"))


def test_command_with_json(run, workplace):
    video, seconds, seed = run(ONE_COMMAND[4], *BASH).split("\n")[:3]
    assert open_video(workplace.folder / "talk.webm").video_codec == "vp9"
    assert (video, seed) == (str(workplace.folder / "talk.webm"), "42")
    assert float(seconds) > 0


def test_curl(run, workplace):
    make, cancel = blocks("curl", "bash")
    assert run(make + cancel, *BASH) == "success\n"
    check_video(workplace.folder / "video.mp4")


@pytest.mark.parametrize(("section", "seed"), [("Python, with the client of this pack", 43), ("Python, by itself", 44)])
def test_python(section, seed, run, workplace):
    workplace.write_graph(quick_start(duration=SECONDS, seed=seed))  # else the server gives the video that it has already
    (code,) = blocks(section, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES
    assert re.search(r"^node 11: 2/2$", run(code, *PYTHON), re.MULTILINE)
    check_video(workplace.folder / "video.mp4")
