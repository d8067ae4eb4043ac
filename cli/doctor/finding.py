"""One line of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report; what is not ok comes with advice."""

    status: str
    topic: str
    text: str
    advice: str = ""
