"""Loads the pack for the benchmarks that run under pytest, as the tests do."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent.parent / "tests" / "conftest.py"))
