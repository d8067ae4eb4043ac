"""A copy of this checkout as a git repository, and the archive that the registry would get."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from .tools import COMFY_CLI, copy_checkout, run, tool_environment


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("repository") / "wan_s2v")


@pytest.fixture(scope="session")
def comfy(repository: Path, tmp_path_factory: pytest.TempPathFactory):
    """Run `comfy node ...` in the repository; returns what it says."""
    program = tool_environment(COMFY_CLI) / "comfy"
    environment = {"DO_NOT_TRACK": "1", "HOME": str(tmp_path_factory.mktemp("home"))}
    return lambda *arguments: run([program, "--skip-prompt", "node", *arguments], cwd=repository, env=environment).stdout


@pytest.fixture(scope="session")
def archive(comfy, repository: Path) -> zipfile.ZipFile:
    comfy("pack")
    return zipfile.ZipFile(repository / "node.zip")
