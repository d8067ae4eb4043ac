"""Run as a program: load the pack into ComfyUI as ComfyUI does, and print as JSON what the import did and took.

import_probe.py COMFYUI PACK BASE_DIRECTORY
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from typing import Any

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.", "tempfile.")
REACHES_OUT = ("socket.", "urllib.", "http.", "ftplib.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "webbrowser.")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def main(comfyui: str, pack: str, base_directory: str) -> None:
    sys.path.insert(0, comfyui)
    os.chdir(comfyui)
    sys.argv = ["main.py", "--cpu", "--disable-api-nodes", "--base-directory", base_directory]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    asyncio.run(measure(nodes, pack))


async def measure(nodes: Any, pack: str) -> None:
    await nodes.init_builtin_extra_nodes()  # which ComfyUI does before it loads any pack
    before = set(sys.modules)
    with tempfile.TemporaryFile() as output:
        redirect(output.fileno())
        events = record_events()
        wall, cpu = time.perf_counter(), time.process_time()
        loaded = await nodes.load_custom_node(pack)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        report = {"loaded": loaded, "wall_s": wall, "cpu_s": cpu, "events": list(events)}
        restore()
        output.seek(0)
        report["printed"] = output.read().decode()
    print(json.dumps({**report, "modules": sorted(set(sys.modules) - before)}))


def record_events() -> list[str]:
    """A list that grows by everything that writes a file, starts a program or uses the network, but for Python's own bytecode."""
    events: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if "__pycache__" in str(arguments[:1]):
            return
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, int) and is_write(mode, flags):  # a number is a file that was opened, and seen, before
                events.append(f"open {path} {mode}")
        elif event.startswith((*CHANGES, *REACHES_OUT)):
            events.append(f"{event} {arguments}")

    sys.addaudithook(hook)
    return events


def is_write(mode: str | None, flags: int) -> bool:
    return any(letter in mode for letter in "wax+") if mode else bool(flags & WRITING)


STREAMS = (1, 2)
ORIGINALS = [os.dup(stream) for stream in STREAMS]


def redirect(target: int) -> None:
    logging.getLogger().addHandler(logging.StreamHandler(os.fdopen(os.dup(target), "w", buffering=1)))  # whatever handlers ComfyUI has
    for stream in STREAMS:
        os.dup2(target, stream)


def restore() -> None:
    sys.stdout.flush()
    for stream, original in zip(STREAMS, ORIGINALS, strict=True):
        os.dup2(original, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
