"""Collects what the doctor looks at. Nothing here raises because something is missing: that is a fact, too."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..comfyui.activity import Patience, seconds_computed
from ..comfyui.address import Headers, without_login
from ..comfyui.errors import ComfyError
from ..comfyui.machine import machine_of
from ..models.files import PARTS
from ..models.folders import ROOT, FolderError, ModelFolders, find_base, find_comfyui, find_model_folders
from ..models.headers import SAFETENSORS, HeaderError, describe, find_candidates
from .checks import Facts, Gpu, Link, RuntimeFacts, ServerFacts, TorchFacts
from .models import ModelFound
from .probe import MARK

PROBE = Path(__file__).with_name("probe.py")
PROBE_TIMEOUT_S, LOOK_S = 180, 1.0
HTTP_TIMEOUT_S = 10
NODE = "WanS2VSampler"  # stands for all nodes of the pack
# Switches of ComfyUI that decide about memory and attention; the probe starts with those of the running server.
SWITCH = re.compile(r"--(cpu|gpu-only|(high|normal|low|no)vram|(enable|disable)-dynamic-vram|disable-(pinned-memory|xformers)|use-.+)")


def collect(*, comfyui: Path | None = None, models_dir: Path | None = None, url: str | None = None, login: Headers = ()) -> Facts:
    """Look at this machine.

    Args:
        comfyui: folder of ComfyUI, where it is not found by itself.
        models_dir: models folder, where it is not in ComfyUI's folder.
        url: address of a running ComfyUI, whose flags and models folder count then. login: headers for it.
    """
    server, arguments = ask_server(url, login) if url else (None, ())
    found, base, comfyui_error = _find(comfyui)
    models_dir = models_dir or _models_dir_of(arguments)
    folders, models_error = _folders(base, models_dir)
    torch, error = probe_torch()
    runtime: RuntimeFacts | None = None
    nodes = None
    if found:
        accelerated = torch is not None and bool(torch.accelerator)
        flags = [argument for argument in arguments if SWITCH.fullmatch(argument)]
        runtime, nodes, comfyui_probe_error = probe_comfyui(found, flags if accelerated or "--cpu" in flags else ["--cpu", *flags])
        error = comfyui_probe_error or error
    return Facts(
        python=f"{platform.python_version()} ({sys.executable})",
        comfyui=str(found) if found else None,
        base=str(base) if base else "",
        comfyui_version=_version_of(found) if found else "",
        comfyui_error=comfyui_error,
        torch=torch,
        runtime=runtime,
        ram_bytes=_ram_bytes(),
        models=_models(folders) if folders else None,
        models_error=models_error,
        free_bytes=_free_bytes(folders, base),
        pack_nodes=nodes,
        probe_error=error,
        server=server,
        system=sys.platform,
    )


def _find(given: Path | None) -> tuple[Path | None, Path | None, str]:
    """ComfyUI's program, the folder that holds models and output, and what is wrong."""
    try:
        return find_comfyui(given), find_base(given), ""
    except FolderError as error:
        return None, None, str(error)


def _folders(comfyui: Path | None, models_dir: Path | None) -> tuple[ModelFolders | None, str]:
    try:
        return find_model_folders(comfyui, models_dir), ""
    except FolderError as error:
        return None, str(error)


def _version_of(comfyui: Path) -> str:
    file = comfyui / "comfyui_version.py"
    found = re.search(r'__version__ = "(.+?)"', file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else ""


def _ram_bytes() -> int:
    try:
        import psutil  # comes with ComfyUI
    except ImportError:
        return 0
    return psutil.virtual_memory().total


def _models(folders: ModelFolders) -> dict[str, tuple[ModelFound, ...]]:
    found = {
        name: tuple(_model(file, path, name) for file, path in find_candidates(folders.of(part.folder), part.pattern))
        for name, part in PARTS.items()
    }
    lacking = [name for name, models in found.items() if PARTS[name].needed and all(model.problem for model in models)]
    return found | {name: (*found[name], *_misplaced(folders, name)) for name in lacking}


def _model(name: str, path: Path, part: str) -> ModelFound:
    try:
        size, kind = describe(path, part)
    except HeaderError as error:
        return ModelFound(name, 0, problem=str(error), advice=error.advice, mendable=error.mendable)
    except OSError as error:
        reason = error.strerror or "the disk fails"
        return ModelFound(name, 0, problem=f"it cannot be read: {reason}", advice="Check the file and its disk.", mendable=True)
    return ModelFound(name, size, kind)


def _misplaced(folders: ModelFolders, part: str) -> Iterator[ModelFound]:
    """Files of a part that lie in the folder of another one."""
    folder, own = PARTS[part].folder, folders.of(PARTS[part].folder)
    for name, path in find_candidates([folders.models], PARTS[part].pattern):
        is_elsewhere = path.suffix.lower() in SAFETENSORS and not any(place in path.parents for place in own)
        if is_elsewhere and not _model(name, path, part).problem:
            advice = f"Move it to models/{folder}."
            yield ModelFound(name, 0, problem="its loader does not look into that folder", advice=advice, mendable=True)


def _free_bytes(folders: ModelFolders | None, base: Path | None) -> dict[str, int]:
    """Free disk by folder: models and output, once if they are on the same disk."""
    places = [folders.models] if folders else []
    places += [base / "output"] if base else []
    by_disk = {place.stat().st_dev: place for place in reversed(places) if place.is_dir()}
    return {str(place): shutil.disk_usage(place).free for place in by_disk.values()}


# --- probes


def probe_torch() -> tuple[TorchFacts | None, str]:
    """PyTorch and its companions, or None and the reason."""
    told, error = _run_probe("torch")
    if "versions" not in told:
        return None, error
    versions, devices, attention = told["versions"], told.get("devices", {}), told.get("attention", {})
    drivers = _drivers() if devices.get("gpus") else []
    gpus = [_gpu(gpu, drivers[index] if index < len(drivers) else "") for index, gpu in enumerate(devices.get("gpus", ()))]
    facts = TorchFacts(
        version=versions["torch"],
        torchvision=versions["torchvision"],
        torchaudio=versions["torchaudio"],
        errors=versions["errors"],
        gpus=tuple(gpus),
        links=tuple(Link(**link) for link in told.get("links", {}).get("links", ())),
        accelerator=devices.get("accelerator", ""),
        kernels=tuple(devices.get("kernels", ())),
        packages=tuple(attention.get("packages", ())),
        broken=attention.get("broken", {}),
        triton=attention.get("triton", ""),
        has_kitchen=attention.get("has_kitchen", False),
        system=sys.platform,
    )
    return facts, error


def _gpu(gpu: Mapping[str, Any], driver: str) -> Gpu:
    capability = gpu["capability"] and (gpu["capability"][0], gpu["capability"][1])
    return Gpu(gpu["name"], gpu["memory_bytes"], capability, driver)


def _drivers() -> list[str]:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


def probe_comfyui(comfyui: Path, flags: Sequence[str]) -> tuple[RuntimeFacts | None, int | None, str]:
    """What ComfyUI decides at its start, the number of our nodes that it gets, and what went wrong."""
    told, error = _run_probe("comfyui", str(comfyui), str(ROOT), *flags)
    runtime = RuntimeFacts(**told["runtime"]) if "runtime" in told else None
    return runtime, told.get("pack", {}).get("nodes"), error


def _run_probe(*arguments: str) -> tuple[dict[str, Any], str]:
    """What the probe told before it ended, and its last words if it failed."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command, pipe = [sys.executable, str(PROBE), *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace", env=environment) as process:
        written = _what_it_writes(process)
    if written is None:
        return {}, f"no answer, and for {PROBE_TIMEOUT_S} s nothing was computed"
    told: dict[str, Any] = {}
    for line in written[0].splitlines():
        if line.startswith(MARK):
            told |= json.loads(line.removeprefix(MARK))
    if process.returncode == 0:
        return told, ""
    words = written[1].strip().splitlines()
    return told, words[-1] if words else f"Python ended with status {process.returncode}"


def _what_it_writes(process: subprocess.Popen[str]) -> tuple[str, str] | None:
    """All output and errors of a process; None, and its end, where it has stopped to compute."""
    patience = Patience(PROBE_TIMEOUT_S, lambda: seconds_computed(process.pid))
    while True:
        try:
            return process.communicate(timeout=LOOK_S)
        except subprocess.TimeoutExpired:
            if patience.is_over():
                process.kill()
                return None


# --- a running server


def ask_server(url: str, login: Headers = ()) -> tuple[ServerFacts, Sequence[str]]:
    """A running ComfyUI and the arguments of its command line."""
    shown = without_login(url)[0]
    try:
        from ..comfyui.transport import Transport  # needs requests, which the Python of the doctor may lack

        http = Transport(url, login, timeout_s=HTTP_TIMEOUT_S)
        stats = http.get("/system_stats")
        system, machine = stats["system"], machine_of(stats)
        has_pack = NODE in http.get(f"/object_info/{NODE}")
    except (ImportError, ComfyError, LookupError, TypeError) as error:
        return ServerFacts(shown, error=f"no answer of a ComfyUI ({error})"), ()
    arguments = system.get("argv", [])[1:]
    flags = tuple(argument for argument in arguments if SWITCH.fullmatch(argument))
    versions = system.get("comfyui_version", ""), system.get("python_version", "")
    return ServerFacts(shown, "", *versions, flags, has_pack, machine), arguments


def _models_dir_of(arguments: Sequence[str]) -> Path | None:
    """The models folder that a server was started with, where its command line names one."""
    for flag, below in (("--models-directory", ""), ("--base-directory", "models")):
        if flag in arguments[:-1]:
            path = Path(arguments[arguments.index(flag) + 1]) / below
            return path if path.is_dir() else None
    return None
