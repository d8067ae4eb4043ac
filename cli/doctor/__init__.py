"""`doctor`: one screen that says whether everything a video needs is in order, and what to do where it is not."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..comfyui.address import address
from ..models.folders import COMFYUI_HELP, MODELS_HELP
from .checks import examine
from .facts import collect
from .finding import OK, PROBLEM, WARNING, Finding

WIDTH = 120
INDENT = 26


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    text = "Check ComfyUI, PyTorch, GPU, memory mode, attention, model files and disk. Run it with the Python that runs ComfyUI."
    parser = commands.add_parser("doctor", help="check ComfyUI, PyTorch, GPU, memory and model files", description=text)
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help=COMFYUI_HELP)
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help=MODELS_HELP)
    parser.add_argument("--url", type=address, help="also look at a running ComfyUI, e.g. http://127.0.0.1:8188; its flags count then")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings and return the exit status: 1 if there is a problem, else 0."""
    findings = examine(collect(comfyui=options.comfyui, models_dir=options.models_dir, url=options.url))
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if options.json else report(findings))
    return int(any(finding.status == PROBLEM for finding in findings))


def report(findings: Sequence[Finding]) -> str:
    """The findings as lines of text, with a summary at the end."""
    lines = [line for finding in findings for line in _lines(finding)]
    counts = Counter(finding.status for finding in findings)
    bad = [f"{counts[status]} {status}{'s' if counts[status] > 1 else ''}" for status in (PROBLEM, WARNING) if counts[status]]
    return "\n".join([*lines, "", ", ".join(bad) if bad else "everything is in order"])


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.status if finding.status != OK else 'ok':<9}{finding.topic:<{INDENT - 9}}"
    lines = textwrap.wrap(finding.text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    advice = textwrap.wrap(finding.advice, WIDTH - INDENT - 3, break_long_words=False, break_on_hyphens=False)
    arrows = [("-> " if index == 0 else "   ") + line for index, line in enumerate(advice)]
    return [head + lines[0], *(" " * INDENT + line for line in (*lines[1:], *arrows))]
