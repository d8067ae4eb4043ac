"""`doctor`: one screen that says whether everything a video needs is in order, and what to do where it is not."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..comfyui.address import add_options as add_server_options
from ..comfyui.address import login_of
from ..compare.options import add_options as add_compare_options
from ..models.folders import COMFYUI_HELP, MODELS_HELP
from .checks import Facts, examine
from .facts import collect
from .finding import PROBLEM, WARNING, Finding
from .report import report
from .speed import speed_findings


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    text = "Check ComfyUI, PyTorch, GPU, memory mode, attention, model files and disk. Run it with the Python that runs ComfyUI."
    parser = commands.add_parser("doctor", help="check ComfyUI, PyTorch, GPU, memory and model files", description=text)
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help=COMFYUI_HELP)
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help=MODELS_HELP)
    add_server_options(parser, "look at this machine only", "--url")
    estimate = "also say how long half a minute of speech takes, as a draft and at the reference's settings"
    parser.add_argument("--estimate", action="store_true", help=estimate)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    add_compare_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the findings and return the exit status: 1 if there is a problem, else 0."""
    if options.compare:
        from ..compare.command import run as compare  # it stands on the rest of this folder

        return compare(options)
    facts = collect(comfyui=options.comfyui, models_dir=options.models_dir, url=options.server, login=login_of(options))
    findings = [*examine(facts), *speed_findings(facts), *(estimated(facts) if options.estimate else ())]
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if options.json else report(findings))
    return int(any(finding.status == PROBLEM for finding in findings))


def estimated(facts: Facts) -> list[Finding]:
    """The findings of --estimate."""
    try:
        from .estimate import estimate_findings
    except ImportError as error:
        return [Finding(WARNING, "Half a minute", f"no estimate: {error}", "Run the doctor with the Python that runs ComfyUI.")]
    return estimate_findings(facts)
