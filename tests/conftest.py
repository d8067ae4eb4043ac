"""Loads the pack under the alias `wan_s2v_pack`, as ComfyUI would under a name of its own."""

import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # runs our kernels without a GPU; Triton looks at it when it is imported

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "wan_s2v_pack"
FOLDER_MARKS = {"browser": ("browser", "comfy"), "install": ("comfy", "slow"), "integration": ("comfy",)}

if ALIAS not in sys.modules:
    spec = importlib.util.spec_from_file_location(ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module
    spec.loader.exec_module(module)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for folder, marks in FOLDER_MARKS.items():
            if Path(__file__).parent / folder in item.path.parents:
                for mark in marks:
                    item.add_marker(mark)


@pytest.fixture(autouse=True)
def _own_log_levels() -> Iterator[None]:
    """What a command that runs in a test sets of logging ends with the test."""
    loggers = logging.getLogger(), logging.getLogger("wan_s2v")
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The ComfyUI that the tests run against."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH is not set; scripts/test sets it")
    return Path(os.environ["COMFYUI_PATH"])
