"""The command line as a user runs it: a copy of `cli` whose quick start is small, and a ComfyUI whose folders may be written to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wan_s2v_pack.tests.processes import start_and_heed

from .graphs import QUICK_START, ROOT, Prompt, quick_start

SECONDS = 0.75
FPS = 16
OWN_FOLDERS = ("models", "output", "input", "temp", "user", "custom_nodes", "extra_model_paths.yaml")  # not shared with the real one


@dataclass(frozen=True)
class Workplace:
    """A folder in which commands run.

    Attributes:
        folder: holds me.png, me.wav and the folder `cli`.
        comfyui: ComfyUI's folder, with folders of its own for models and output.
        environment: of the commands.
    """

    folder: Path
    comfyui: Path
    environment: Mapping[str, str]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `predict` to its end."""
        return self.shell(None, *predict_command(*arguments), **options)

    def shell(self, text: str | None, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command with an input."""
        facts = {"cwd": self.folder, "env": self.environment, "input": text, "timeout": 300}
        return subprocess.run(command, capture_output=True, text=True, check=False, **{**facts, **options})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `predict` and return at once."""
        return start_and_heed(predict_command(*arguments), self.folder, self.environment)

    def write_graph(self, prompt: Prompt) -> None:
        """Make this the quick start."""
        (self.folder / "cli" / "workflows" / QUICK_START.name).write_text(json.dumps(prompt), encoding="utf-8")


def predict_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cli", "predict", *arguments]


def make_workplace(folder: Path, comfyui: Path, models: Path) -> Workplace:
    """Lay out the folders; the graph is the quick start of the tests, the sound is short."""
    pack = folder / "pack"
    shutil.copytree(ROOT, pack, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests", "bench", "docs", "samples"))
    (pack / "samples").mkdir()
    for sample, name in (("sample_portrait.png", "me.png"), ("sample_speech.wav", "me.wav")):
        shutil.copy(ROOT / "samples" / sample, pack / name)
        shutil.copy(ROOT / "samples" / sample, pack / "samples")
    linked = folder / "comfyui"
    linked.mkdir()
    for entry in comfyui.iterdir():
        if entry.name not in OWN_FOLDERS and not entry.name.startswith("."):
            (linked / entry.name).symlink_to(entry)
    (linked / "models").symlink_to(models)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    workplace = Workplace(pack, linked, {**os.environ, "COMFYUI_PATH": str(linked), "PATH": path})
    workplace.write_graph(quick_start(duration=SECONDS))
    return workplace
