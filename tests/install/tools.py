"""Environments of their own for the programs that publish and install packs, and a ComfyUI without any pack."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from wan_s2v_pack.cli.comfyui.server import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".cache" / "tools"
COMFY_CLI = "comfy-cli==1.23.0"
NOT_COPIED = ("models", "input", "output", "temp", "user", "custom_nodes", "tests*", "*venv*", ".git", ".github")  # of the top folder
TIMEOUT_S = 300


def tool_environment(requirement: str) -> Path:
    """The folder of programs of an environment with one more package than ours, made once."""
    folder = TOOLS / requirement.replace("==", "-")
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    done = folder / "ready"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        share_packages(programs)
        run([programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement])
        done.touch()
    return programs


def share_packages(programs: Path) -> None:
    """Lend our packages to an environment; with copies of their descriptions it cannot change ours, and does not fetch them again."""
    ours = Path(sysconfig.get_paths()["purelib"])
    query = run([programs / "python", "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"])
    theirs = Path(query.stdout.strip())
    (theirs / "shared.pth").write_text(str(ours))
    for description in ours.glob("*.dist-info"):
        if not list(theirs.glob(f"{description.name.split('-')[0]}-*.dist-info")):
            shutil.copytree(description, theirs / description.name)


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that must succeed; its output is text."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 0, f"{command[0]} ended with {result.returncode}:\n{result.stdout[-3000:]}"
    return result


def git(repository: Path, *arguments: str) -> str:
    """Run git as a person with a name."""
    person = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return run(["git", *person, "-C", repository, *arguments]).stdout


def copy_checkout(target: Path) -> Path:
    """A git repository with the files of this checkout, those not committed yet too."""
    names = run(["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    git(target, "init", "--quiet", "--initial-branch", "main")
    git(target, "add", "--all")
    git(target, "commit", "--quiet", "--message", "first")
    return target


def copy_comfyui(comfyui: Path, target: Path) -> Path:
    """A ComfyUI with empty folders, in which nothing has run."""
    at_the_top, below = shutil.ignore_patterns(*NOT_COPIED), shutil.ignore_patterns("__pycache__")
    shutil.copytree(comfyui, target, ignore=lambda folder, names: (at_the_top if Path(folder) == comfyui else below)(folder, names))
    for name in FOLDERS:
        (target / name).mkdir(parents=True, exist_ok=True)
    return target


def start_and_end(comfyui: Path) -> str:
    """The log of a ComfyUI that ends as soon as it has loaded its packs."""
    options = ["--cpu", "--quick-test-for-ci", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    return run([sys.executable, "main.py", *options], cwd=comfyui).stdout
