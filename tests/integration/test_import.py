"""What the import of the pack costs and does: little time, no file, no word, no network, no program."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wan_s2v_pack.cli.comfyui.server import prepare_base_directory

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).parent / "import_probe.py"
LONGEST_S = 0.2  # on top of ComfyUI
OPTIONAL = {"triton", "sageattention", "sageattn3", "fa3_fwd_interface"}  # used where they are
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "comfyui_version", "folder_paths", "latent_preview"}
USED_LATER = ("transformers.models", "triton", "sageattention", "sageattn3", "fa3_fwd_interface", "cosyvoice", "wan_s2v_pack.cli")


def probe(comfyui: Path, pack: Path, base: Path) -> dict[str, Any]:
    """Import the pack in a new process; the report of import_probe.py."""
    command = [sys.executable, str(PROBE), str(comfyui), str(pack), str(base)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # as on a user's machine: the second import finds compiled modules
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepare_base_directory(tmp_path_factory.mktemp("import"), ROOT)


@pytest.fixture(scope="module")
def reports(comfyui_path, base):
    """Two imports; the first one may write Python's bytecode."""
    return [probe(comfyui_path, base / "custom_nodes" / "wan_s2v", base) for _ in range(2)]


def test_it_is_loaded(reports):
    assert [report["loaded"] for report in reports] == [True, True]


def test_it_takes_no_time(reports):
    assert min(report["cpu_s"] for report in reports) <= LONGEST_S


def test_it_prints_nothing(reports):
    assert [report["printed"] for report in reports] == ["", ""]


def test_it_writes_no_file_and_reaches_nothing(reports):
    assert reports[1]["events"] == []


def test_it_imports_nothing_that_may_never_be_used(reports):
    assert [name for name in reports[1]["modules"] if name.startswith(USED_LATER)] == []


SINS = {
    "events": "import pathlib; pathlib.Path(__file__).with_name('sin').write_text('x')",
    "printed": "import logging; logging.getLogger('wan_s2v').warning('hello')",
    "cpu_s": "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass",
}


def test_the_probe_sees_each_sin(comfyui_path, tmp_path):
    base = prepare_base_directory(tmp_path / "base", ROOT)
    pack = tmp_path / "sinner"
    pack.mkdir()
    (pack / "__init__.py").write_text("\n".join(SINS.values()) + "\nimport socket; socket.socket().close()\nNODE_CLASS_MAPPINGS = {}\n")
    report = probe(comfyui_path, pack, base)
    assert report["cpu_s"] > LONGEST_S
    assert "hello" in report["printed"]
    assert {event.split()[0] for event in report["events"]} == {"open", "socket.__new__"}


def test_every_package_comes_with_comfyui(comfyui_path):
    requirements = (comfyui_path / "requirements.txt").read_text(encoding="utf-8")
    installed = {name.lower().replace("-", "_") for name in re.findall(r"^[A-Za-z][\w-]*", requirements, re.MULTILINE)}
    sources = [path for folder in ("nodes", "wan_s2v_model") for path in (ROOT / folder).rglob("*.py")]
    imported = {name for path in sources for name in absolute_imports(path)}
    assert "torch" in imported
    assert imported - installed - set(sys.stdlib_module_names) - COMFYUI - OPTIONAL - ({"PIL"} if "pillow" in installed else set()) == set()


def absolute_imports(path: Path) -> Iterator[str]:
    """The packages that a file imports, in functions too."""
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            yield from (alias.name.split(".")[0] for alias in item.names)
        elif isinstance(item, ast.ImportFrom) and item.level == 0 and item.module:
            yield item.module.split(".")[0]
