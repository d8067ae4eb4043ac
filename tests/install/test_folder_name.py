"""A checkout may lie in a folder of any name."""

from __future__ import annotations

import sys

import pytest

from .tools import copy_checkout, run

QUICK = ("tests/unit/transformer/test_rope.py", "tests/unit/test_help_pages.py")  # one with the pack, one with another module of tests


@pytest.mark.parametrize("name", ["ComfyUI-Wan-S2V", "my nodes"])
def test_tests_run_in_it(name, tmp_path):
    checkout = copy_checkout(tmp_path / name)
    said = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK], cwd=checkout).stdout
    assert " passed" in said
    assert "skipped" not in said
