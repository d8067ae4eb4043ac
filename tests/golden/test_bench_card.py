"""`bench/card.py` runs without weights, and what it prints fits docs/cards.md, where the calculated rows are its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from wan_s2v_pack.tests.golden.comfyui import comfyui_path

pytestmark = pytest.mark.comfy

ROOT = Path(__file__).resolve().parents[2]
CARDS = (ROOT / "docs" / "cards.md").read_text(encoding="utf-8")


def run_bench(*arguments):
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui_path())}
    command = [sys.executable, ROOT / "bench" / "card.py", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_row_of_this_machine(bridge):
    header, rule, row = run_bench("--tiny")
    assert f"{header}\n{rule}\n" in CARDS
    named = dict(zip(cells(header), cells(row), strict=True))
    assert named["Card"] == "CPU"
    assert float(named["exact"]) > 0
    assert float(named["GB/s"]) > 0
    assert [named[choice] for choice in ("fp8 linears", "sage", "both")] == ["-"] * 3, "what has no effect is not timed"
    assert named["Attention"].endswith("as ComfyUI was started")


def test_calculated_rows_are_those_of_the_page(bridge):
    assert "\n".join(run_bench("--calculated")) in CARDS
