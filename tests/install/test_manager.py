"""ComfyUI-Manager's command line with a git server on this machine: install, disable, enable, update, remove.

What needs the internet is cut off here, so that the test says the same everywhere: install by name from the registry, its list of
versions, and the Manager's lists of packs.
"""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .tools import copy_comfyui, git, run, start_and_end, tool_environment

NO_INTERNET = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def origin(repository, tmp_path_factory):
    """A bare repository that plain HTTP serves, and its address."""
    folder = tmp_path_factory.mktemp("origin")
    bare = folder / "wan_s2v.git"
    run(["git", "clone", "--quiet", "--bare", repository, bare])
    git(bare, "update-server-info")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield bare, f"http://127.0.0.1:{server.server_port}/wan_s2v.git"
        server.shutdown()


@pytest.fixture(scope="module")
def comfyui(comfyui_path, tmp_path_factory):
    return copy_comfyui(comfyui_path, tmp_path_factory.mktemp("managed") / "ComfyUI")


@pytest.fixture(scope="module")
def manager(comfyui_path, comfyui, tmp_path_factory):
    """Run the Manager's command line, in the version that this ComfyUI asks for; returns what it says."""
    requirement = (comfyui_path / "manager_requirements.txt").read_text().strip().replace("_", "-")
    program = tool_environment(requirement) / "cm-cli"
    environment = {**NO_INTERNET, "COMFYUI_PATH": str(comfyui), "HOME": str(tmp_path_factory.mktemp("home"))}
    return lambda *arguments: run([program, *arguments, "--mode", "local"], cwd=comfyui, env=environment).stdout


def release(repository: Path, bare: Path, version: str) -> None:
    """Commit another version of the pack and publish it."""
    project = repository / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "0.1.0"', f'version = "{version}"', 1))
    git(repository, "commit", "--quiet", "--all", "--message", version)
    git(repository, "push", "--quiet", str(bare), "main")
    git(bare, "update-server-info")


def test_a_life_with_the_manager(manager, comfyui, origin, repository):
    bare, address = origin
    pack = comfyui / "custom_nodes" / "wan_s2v"
    disabled = comfyui / "custom_nodes" / ".disabled" / "wan_s2v"

    answer = manager("install", address)
    assert "INSTALLED" in answer
    assert "'pip'" not in answer, "a package was installed, though all come with ComfyUI"
    log = start_and_end(comfyui)
    assert f"seconds: {pack}" in log
    assert "IMPORT FAILED" not in log

    assert "DISABLED" in manager("disable", "wan_s2v")
    assert (disabled / "nodes").is_dir()
    assert "wan_s2v" not in start_and_end(comfyui)

    assert "ENABLED" in manager("enable", "wan_s2v")
    assert (pack / "nodes").is_dir()

    release(repository, bare, "0.1.1")
    manager("update", "wan_s2v")
    assert 'version = "0.1.1"' in (pack / "pyproject.toml").read_text()
    log = start_and_end(comfyui)
    assert f"seconds: {pack}" in log
    assert "IMPORT FAILED" not in log

    assert "UNINSTALLED" in manager("uninstall", "wan_s2v")
    assert not pack.exists()
    assert not disabled.exists()
