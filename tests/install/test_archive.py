"""`comfy node validate`, `comfy node pack`, and the archive in a ComfyUI that has nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient
from wan_s2v_pack.cli.comfyui.server import ComfyServer
from wan_s2v_pack.scripts.records.help_pages import HELP
from wan_s2v_pack.scripts.records.schemas import read_snapshot
from wan_s2v_pack.scripts.tiny_models.fill import fill_base_directory
from wan_s2v_pack.tests.integration.graphs import quick_start
from wan_s2v_pack.tests.integration.rendering import Renderer

from .tools import copy_comfyui, start_and_end

FOLDER = "wan-s2v"  # the Manager names it after the project
NEEDED = {"__init__.py", "LICENSE", "NOTICE", "README.md", "pyproject.toml", "requirements.txt", "tts_worker/cosyvoice_worker.py"}
COMMANDS = {"wan_s2v_cli.py", "cli/__main__.py", "cli/workflows/quick_start.json"}
LEFT_OUT = ("bench/", "docs/", "scripts/", "tests/", ".", "requirements-", "CONTRIBUTING")
LARGEST_BYTES = 5e6


@pytest.fixture(scope="module")
def installed(comfyui_path, archive, tmp_path_factory):
    """A fresh ComfyUI with the archive unpacked as its only pack."""
    comfyui = copy_comfyui(comfyui_path, tmp_path_factory.mktemp("fresh") / "ComfyUI")
    archive.extractall(comfyui / "custom_nodes" / FOLDER)
    return comfyui


def test_validate_has_nothing_to_say(comfy):
    answer = comfy("validate")
    assert "All validation checks passed" in answer
    assert "arning" not in answer


def test_archive_holds_what_comfyui_loads_and_the_command_line_and_nothing_else(archive):
    names = set(archive.namelist())
    assert names >= NEEDED | COMMANDS | {f"web/docs/{page}" for node in read_snapshot() for page in (f"{node}.md", f"images/{node}.png")}
    assert names >= {f"web/docs/{page.relative_to(HELP).as_posix()}" for page in HELP.rglob("*.md")}, "in every language"
    assert names >= {f"locales/{language}/{file}.json" for language in ("en", "zh") for file in ("main", "nodeDefs")}
    assert [name for name in names if name.startswith(LEFT_OUT)] == []
    assert sum(item.file_size for item in archive.infolist()) < LARGEST_BYTES


def test_archive_brings_the_command_line(installed, tmp_path, monkeypatch):
    """As the portable build's Python starts it, which looks neither into the working directory nor beside the program."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    program = installed / "custom_nodes" / FOLDER / "wan_s2v_cli.py"
    done = subprocess.run(
        [sys.executable, "-I", program, "runs", "list", "--json"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["folder"] == str(installed / "output" / "wan_s2v_runs")


def test_archive_works_in_a_fresh_comfyui(installed):
    fill_base_directory(installed)
    with ComfyServer(installed, installed, cpu=True, extra_args=["--disable-api-nodes"]) as server:
        client = ComfyClient(server.url)
        modules = {name: info["python_module"] for name, info in client.object_info().items()}
        assert {name for name, module in modules.items() if module == f"custom_nodes.{FOLDER}"} == set(read_snapshot())
        assert fetch(server.url, f"/extensions/{FOLDER}/docs/WanS2VSampler.md").startswith(b"# Sample Video (Wan S2V)")
        assert "Talking photo, quick start (Wan S2V)" in json.loads(fetch(server.url, "/workflow_templates"))[FOLDER]
        assert Renderer(server, client).render(quick_start()).num_frames == 12


def fetch(url: str, path: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + path, timeout=30) as response:
        return response.read()


def test_below_the_oldest_comfyui_the_message_is_clear(installed):
    version = installed / "comfyui_version.py"
    present = version.read_text()
    version.write_text('__version__ = "0.24.1"\n')
    try:
        log = start_and_end(installed)
    finally:
        version.write_text(present)
    assert "Wan S2V needs ComfyUI 0.25.0 or newer, this is 0.24.1. Update ComfyUI and restart it." in log
    assert f"(IMPORT FAILED): {installed / 'custom_nodes' / FOLDER}" in log
