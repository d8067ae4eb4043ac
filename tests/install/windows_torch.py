"""PyTorch and ComfyUI's packages on a Windows Python under Wine 10: what it takes, made once, and 5 GB.

Debian 13 has Wine 10. Elsewhere it is unpacked into a folder (root, debootstrap), and programs see that folder as their system.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from .tools import TOOLS, run, tool_environment

DEBIAN = "trixie"
OLDEST_WINE = 10  # 8 starts Python, but neither numpy nor torch
UV = "uv==0.13.9"
PEFILE = "pefile==2024.8.26"
FLEET = Path(__file__).resolve().parents[2] / "requirements-fleet.txt"
COMPILER = "x86_64-w64-mingw32-gcc"
INSTALL_S = 3000
# What mount does here ends with the program. $1: the system; $2: a folder that both sides see; then the program.
IN_THE_OTHER_SYSTEM = """
root=$1; seen=$2; here=$PWD; shift 2
mkdir -p "$root$seen"; mount --bind "$seen" "$root$seen"; mount --rbind /dev "$root/dev"; mount -t proc proc "$root/proc"
exec chroot "$root" env -C "$here" PATH=/usr/bin:/bin "$@"
"""


def newer_wine() -> list[str]:
    """The command that starts a Windows program in a Wine that torch runs in; skips the test where there is none."""
    if shutil.which("wine") and version_of(["wine"]) >= OLDEST_WINE:
        return ["wine"]
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        pytest.skip(f"this needs Wine {OLDEST_WINE}, or root and debootstrap to unpack one; nothing was tried with torch on Windows")
    system = TOOLS / DEBIAN
    ready = system / "ready"
    if not ready.exists():
        shutil.rmtree(system, ignore_errors=True)
        packages = "wine,wine64,libgl1"
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", DEBIAN, system]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False, timeout=INSTALL_S).returncode:
            pytest.skip(f"Debian 13 could not be unpacked, so Wine {OLDEST_WINE} is not here; nothing was tried with torch on Windows")
        ready.touch()
    (system / "etc" / "hosts").write_text("127.0.0.1 localhost\n")  # debootstrap leaves none, and Wine asks it
    return ["unshare", "--mount", "sh", "-euc", IN_THE_OTHER_SYSTEM, "sh", str(system), str(TOOLS), "wine"]


def version_of(wine: list[str]) -> int:
    found = re.search(r"wine-(\d+)", subprocess.run([*wine, "--version"], capture_output=True, text=True, check=False).stdout)
    return int(found[1]) if found else 0


def install_torch(site_packages: Path, requirements: list[Path]) -> None:
    """What ComfyUI's portable build has. pip looks at the conditions of this system, uv at those of Windows."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed, which torch needs under Wine; nothing was tried with torch on Windows")
    install(site_packages, *(word for path in requirements for word in ("-r", str(path))))
    script = tool_environment(PEFILE) / "python"
    run([script, Path(__file__).with_name("wine_complex.py"), site_packages, site_packages.parents[1]])


def install(folder: Path, *requirements: str) -> None:
    system = ["--python-platform", "x86_64-pc-windows-msvc", "--python-version", "3.13", "--only-binary", ":all:"]
    command = [tool_environment(UV) / "uv", "pip", "install", "--quiet", "--no-cache", *system, "--target", folder, *requirements]
    subprocess.run(command, check=True, timeout=INSTALL_S)


def pytest_once() -> Path:
    """A folder with pytest and what the fleet needs, beside the Python, so that this stays what the portable build has."""
    folder = TOOLS / "windows_pytest"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        install(folder, *(f"{name}=={version(name)}" for name in ("pytest", "pytest-asyncio")), "colorama", "-r", str(FLEET))
        (folder / "ready").touch()
    return folder


def requirements_of(comfyui: Path) -> Iterator[Path]:
    yield Path(__file__).resolve().parents[2] / "requirements-torch.txt"
    yield comfyui / "requirements.txt"
