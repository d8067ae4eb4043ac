"""The block of text: the machine and the verdicts. It names nobody and no place on the disk."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..doctor.checks import Facts, check_gpu, check_memory_mode
from ..doctor.finding import PROBLEM, Finding
from ..doctor.report import lines as finding_lines
from ..models.folders import ROOT

FENCE = "-" * 20
ABSOLUTE = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\\/:\"'(),\n]+[\\/])+")  # up to the last name; rather too much than a user's name


def block_text(lines: Iterable[str], findings: Sequence[Finding]) -> str:
    """Everything, between two lines of hyphens, with one sentence at the end."""
    problems = [finding.topic for finding in findings if finding.status == PROBLEM]
    verdict = f"problems: {', '.join(problems)}" if problems else "the model, the picture and the mouth are in order"
    shown = [replace(finding, text=without_paths(finding.text), advice=without_paths(finding.advice)) for finding in findings]
    return "\n".join([f"{FENCE} wan-s2v comparison {FENCE}", *lines, "", *finding_lines(shown), "", f"verdict: {verdict}", FENCE * 3])


def without_paths(text: str) -> str:
    """The text with nothing of any path but its last name."""
    return ABSOLUTE.sub("", text)


def environment_lines(facts: Facts) -> list[str]:
    """Versions, graphics cards and memory."""
    torch = facts.torch.version if facts.torch else "unknown"
    python, system = facts.python.split()[0], f"{platform.system()} {platform.machine()}"
    cards = [finding.text.partition(", driver")[0] for finding in (*check_gpu(facts), *check_memory_mode(facts))]
    return [
        f"pack {pack_version()}, ComfyUI {facts.comfyui_version or 'unknown'}, Python {python}, torch {torch}, {system}",
        f"machine: {'; '.join(cards)}; RAM {facts.ram_bytes / 1e9:.0f} GB",
    ]


def pack_version() -> str:
    found = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"
