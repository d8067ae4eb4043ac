"""The command line as Pythons of all kinds start it: from any folder, isolated, on consoles with few letters."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wan_s2v_pack.cli import command
from wan_s2v_pack.tests.run_folders import make_run

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "wan_s2v_cli.py"
ISOLATED = [
    sys.executable,
    "-I",
    "-W",
    "error::DeprecationWarning",
]  # as `python_embeded` with its ._pth: neither working directory nor PYTHON*
NAME = "你好 Ünïcode"


def started(*words, encoding="utf-8", cwd=None):
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run([str(word) for word in words], capture_output=True, check=False, cwd=cwd, env=env)


@pytest.mark.parametrize("arguments", [["--help"], ["download", "--help"], ["predict", "--help"], ["doctor", "--help"], ["runs", "--help"]])
def test_an_isolated_python_starts_it_from_any_folder(tmp_path, arguments):
    done = started(*ISOLATED, FILE, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"usage: " in done.stdout


def test_the_folder_of_the_commands_starts_it_too(tmp_path):
    assert started(*ISOLATED, ROOT / "cli", "--help", cwd=tmp_path).returncode == 0


def test_what_the_folder_starts_knows_its_package(tmp_path):
    """Python 3.13 warns when the two differ, and a later one looks at the second only."""
    code = "import runpy, sys; main = runpy.run_path(sys.argv[1]); print(main['__package__'], main['__spec__'].parent, end='')"
    assert started(*ISOLATED, "-c", code, ROOT / "cli", cwd=tmp_path).stdout == b"cli cli"


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "output"
    make_run(folder / "wan_s2v_runs", NAME)
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
@pytest.mark.parametrize("with_json", [False, True])
def test_any_name_can_be_written_to_any_console(output, encoding, with_json):
    """Isolated Python ignores PYTHONIOENCODING, so this one is not."""
    done = started(sys.executable, FILE, "runs", "list", "--output-dir", output, *(["--json"] if with_json else []), encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    if with_json:
        assert done.stdout.isascii()
        assert [run["name"] for run in json.loads(text)["runs"]] == [NAME]
    else:
        assert NAME.encode(encoding, errors="backslashreplace").decode(encoding) in text


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_any_name_can_stand_in_an_error(output, encoding):
    done = started(sys.executable, FILE, "runs", "show", "жук", "--output-dir", output, encoding=encoding)
    assert done.returncode == 1
    assert b"There is no run " in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("started_by", "expected"),
    [
        (["python", "/some where/wan_s2v_cli.py"], "python '/some where/wan_s2v_cli.py' runs list"),
        (["../python_embeded/python", "-s", "wan_s2v_cli.py"], "../python_embeded/python -s wan_s2v_cli.py runs list"),
        (["python3", "custom_nodes/wan_s2v/cli"], "python3 custom_nodes/wan_s2v/cli runs list"),
        (["/usr/bin/pytest"], "python -m cli runs list"),
    ],
)
def test_messages_name_the_command_that_was_used(monkeypatch, started_by, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", [started_by[-1], "runs", "delete", "a b"])
    monkeypatch.setattr(sys, "orig_argv", [*started_by, "runs", "delete", "a b"])
    assert command.command("runs list") == expected


def test_on_windows_it_is_quoted_for_its_shells(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["wan_s2v_cli.py", "doctor"])
    monkeypatch.setattr(sys, "orig_argv", [r"C:\My Apps\python.exe", "-s", "wan_s2v_cli.py", "doctor"])
    assert command.command("doctor") == r'"C:\My Apps\python.exe" -s wan_s2v_cli.py doctor'


def test_the_printed_command_works(output):
    done = started(*ISOLATED, FILE, "runs", "delete", "nothing", "--output-dir", output)
    printed = done.stderr.decode().partition("`")[2].partition("`")[0]
    words = [*ISOLATED, str(FILE), "runs", "list"]
    assert printed == (subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words))
    assert started(*words, "--output-dir", output).returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="makes links")
def test_a_pack_without_a_main_py_above_it_works_in_the_folder_of_the_desktop_app(tmp_path):
    """Documents/ComfyUI holds custom_nodes, models and output; the program lies where the app was installed."""
    base = tmp_path / "Documents" / "ComfyUI"
    pack = base / "custom_nodes" / "wan-s2v"
    for name in ("models/vae", "custom_nodes", "output"):
        (base / name).mkdir(parents=True)
    for name in ("cli", "wan_s2v_model"):
        shutil.copytree(ROOT / name, pack / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(FILE, pack / FILE.name)
    make_run(base / "output" / "wan_s2v_runs", "song")
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    done = subprocess.run(
        [*ISOLATED, str(pack / FILE.name), "runs", "list", "--json"], capture_output=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.stderr == b""
    found = json.loads(done.stdout)
    assert found["folder"] == str(base / "output" / "wan_s2v_runs")
    assert [run["name"] for run in found["runs"]] == ["song"]


RUN_ALL = """
import runpy, sys
from pathlib import Path
root, failed, path = Path(sys.argv[1]), {}, list(sys.path)
started = [file for place in ("scripts", "bench", "tts_worker", "tests/fuzz") for file in sorted((root / place).rglob("*.py"))]
started += [root / "tests" / name for name in ("mutation.py", "golden/replay.py")]
scripts = [file for file in started if "__main__" in file.read_text(encoding="utf-8")]
assert len(scripts) > 30
ours = {"cli", "scripts", "tests", "wan_s2v_model", "wan_s2v_pack", *(file.stem for file in started)}
for script in scripts:
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    try:
        runpy.run_path(str(script), run_name="started by a test")
    except (ImportError, DeprecationWarning) as error:
        if sys.platform == "win32" and getattr(error, "name", "") in ("playwright", "celery", "kombu", "resource"):  # for Linux alone
            continue
        failed[script.relative_to(root).as_posix()] = repr(error)
print(failed, end="")
"""


FUZZ_ONE = """
import runpy, sys
runpy.run_path(sys.argv[1])
from wan_s2v_pack.tests.fuzz.targets import TARGETS, try_one
for name, target in TARGETS.items():
    try_one(name, target.seeds[0])
print(len(TARGETS) > 5, end="")
"""


def test_an_isolated_python_fuzzes_every_parser(tmp_path):
    """As tests/fuzz/run.py does it, without atheris."""
    done = started(*ISOLATED, "-c", FUZZ_ONE, ROOT / "tests" / "conftest.py", cwd=tmp_path)
    assert done.stdout == b"True", done.stderr


def test_an_isolated_python_starts_every_script_and_measurement(tmp_path):
    done = started(*ISOLATED, "-c", RUN_ALL, ROOT, cwd=tmp_path)
    assert (done.stdout.decode(), done.returncode) == ("{}", 0)
