"""A headless ComfyUI on loopback, for the demo script, the tests and the screenshot."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from ..models.folders import ModelFolders
from .activity import Patience, seconds_computed
from .errors import ComfyError
from .transport import Transport

try:
    from ...wan_s2v_model.files import remove_folder
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import remove_folder

PACK_NAME = "wan_s2v"
MODEL_FOLDERS = ("diffusion_models", "text_encoders", "audio_encoders", "vae", "loras")
FOLDERS = ("input", "output", "temp", "user", "custom_nodes", *(f"models/{name}" for name in MODEL_FOLDERS))
COPY_IGNORE = shutil.ignore_patterns(".*", "__pycache__", "tests", "models", "output")
LOG_TAIL_LINES = 40
STOP_TIMEOUT_S = 15
POLL_S = 0.2
PR_SET_PDEATHSIG = 1  # of prctl
OWN_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # what a session is elsewhere, on Windows


class ServerError(RuntimeError):
    """ComfyUI did not come up, or went away."""


def prepare_base_directory(base: Path, pack: Path) -> Path:
    """Create a ComfyUI base directory whose only custom node pack is this checkout.

    Args:
        base: folder to create; everything that is already there is kept.
        pack: root of the pack, linked (or copied where links are not allowed) as custom_nodes/wan_s2v.
    Returns:
        The resolved base directory.
    """
    base = base.resolve()
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    link_pack(pack, base / "custom_nodes" / PACK_NAME)
    return base


def link_pack(pack: Path, link: Path) -> None:
    """Make `link` show the folder `pack`; a link to another checkout is replaced."""
    if link.is_symlink() and link.resolve() != pack.resolve():
        link.unlink()
    if link.is_symlink():
        return
    if link.exists():  # a copy made earlier
        remove_folder(link)
    with contextlib.suppress(OSError):
        link.symlink_to(pack.resolve(), target_is_directory=True)
    if not link.is_dir():  # links are not allowed, or nothing comes of them, as under Wine
        shutil.copytree(pack, link, ignore=COPY_IGNORE)


def write_model_paths(base: Path, models: Path) -> Path:
    """Make a models folder visible to a server whose base directory is elsewhere.

    Returns:
        The file for ComfyUI's --extra-model-paths-config (JSON, which is YAML too).
    """
    below = ModelFolders(Path(), {})
    folders = {"base_path": str(models.resolve()), **{name: "\n".join(f"{place}/" for place in below.of(name)) for name in MODEL_FOLDERS}}
    path = base / "extra_model_paths.yaml"
    path.write_text(json.dumps({"comfyui": folders}, indent=2), encoding="utf-8")
    return path


def has_accelerator() -> bool:
    """Tell whether PyTorch finds something that computes faster than the CPU; without it ComfyUI starts with --cpu only."""
    import torch

    return torch.accelerator.is_available()


def free_port() -> int:
    """Return a loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """Context manager around one ComfyUI process.

    Args:
        comfyui: ComfyUI folder (the one with main.py).
        base_directory: made by `prepare_base_directory`.
        cpu: run without a GPU.
        extra_args: further ComfyUI command line arguments.
        timeout_s: longest wait for a server that does not answer, writes nothing and computes nothing.
        own_session: keep Ctrl-C of the terminal from the process; only `stop` ends it then, and on Linux the end of the thread that started
            it, however that ends.
    """

    def __init__(
        self,
        comfyui: Path,
        base_directory: Path,
        *,
        cpu: bool = False,
        extra_args: Sequence[str] = (),
        timeout_s: float = 240.0,
        own_session: bool = False,
    ) -> None:
        self.comfyui = Path(comfyui).resolve()
        self.base_directory = Path(base_directory).resolve()
        self.log_file = self.base_directory / "server.log"  # receives all output of the process
        self.timeout_s = timeout_s
        self.own_session = own_session
        self.port = free_port()
        self._arguments = [*(["--cpu"] if cpu else []), *extra_args]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def input_directory(self) -> Path:
        return self.base_directory / "input"

    @property
    def output_directory(self) -> Path:
        return self.base_directory / "output"

    def command(self) -> list[str]:
        """Return the command line that starts the server."""
        database = f"sqlite:///{(self.base_directory / 'user' / 'comfyui.db').as_posix()}"
        address = ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch"]
        folders = ["--base-directory", str(self.base_directory), "--database-url", database]
        return [sys.executable, "main.py", *address, *folders, *self._arguments]

    def start(self) -> ComfyServer:
        """Start ComfyUI and return when it answers."""
        if not (self.comfyui / "main.py").is_file():
            raise ServerError(f"No ComfyUI in {self.comfyui}: there is no main.py. Set COMFYUI_PATH to a ComfyUI folder.")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.comfyui,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=self.own_session,
                creationflags=OWN_GROUP if self.own_session else 0,
                preexec_fn=die_with_parent if self.own_session and sys.platform == "linux" else None,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ask the process to end, and end it when it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM if os.name == "nt" or ignores_ctrl_c() else signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_text(self) -> str:
        """Return everything the server has written so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-LOG_TAIL_LINES:])

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise ServerError("The server is not running. Start it first.")
        return self._process.pid

    def memory_bytes(self) -> int:
        """Return the resident memory of the server process in bytes."""
        return psutil.Process(self.pid).memory_info().rss

    def alive(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def _wait_until_ready(self) -> None:
        """A slow start is waited for; what ends the wait is a server in which nothing happens any more."""
        patience = Patience(self.timeout_s, self._work_done)
        while True:
            if not self.alive():
                raise ServerError(f"ComfyUI ended while starting. The last lines of {self.log_file}:\n{self.log_tail()}")
            if self._answers():
                return
            if patience.is_over():
                raise ServerError(
                    f"ComfyUI does not answer, and for {self.timeout_s:.0f} s it has neither written nor computed anything. "
                    f"The last lines of {self.log_file}:\n{self.log_tail()}"
                )
            time.sleep(POLL_S)

    def _work_done(self) -> tuple[int, int]:
        """Bytes of the log, and whole seconds of processor time."""
        return self.log_file.stat().st_size, seconds_computed(self.pid)

    def _answers(self) -> bool:
        try:
            return bool(Transport(self.url, timeout_s=5).get("/system_stats"))
        except ComfyError:
            return False

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def die_with_parent() -> None:
    """Let Linux kill this process when the thread that started it ends, be it by a kill."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ignores_ctrl_c() -> bool:
    """Whether this process and its children do not hear SIGINT, as a shell has it for its background jobs."""
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN
