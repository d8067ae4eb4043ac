"""Findings as lines of text."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from .finding import OK, PROBLEM, WARNING, Finding

WIDTH = 120
INDENT = 26


def report(findings: Sequence[Finding]) -> str:
    """The findings as lines of text, with a summary at the end."""
    counts = Counter(finding.status for finding in findings)
    bad = [f"{counts[status]} {status}{'s' if counts[status] > 1 else ''}" for status in (PROBLEM, WARNING) if counts[status]]
    return "\n".join([*lines(findings), "", ", ".join(bad) if bad else "everything is in order"])


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, more where it is long, and its advice behind an arrow."""
    return [line for finding in findings for line in _lines(finding)]


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.status if finding.status != OK else 'ok':<9}{finding.topic:<{INDENT - 9}}"
    lines = textwrap.wrap(finding.text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False) or [""]
    advice = textwrap.wrap(finding.advice, WIDTH - INDENT - 3, break_long_words=False, break_on_hyphens=False)
    arrows = [("-> " if index == 0 else "   ") + line for index, line in enumerate(advice)]
    return [head + lines[0], *(" " * INDENT + line for line in (*lines[1:], *arrows))]
