"""Replays a folder and prints what came out."""

import time
from collections import defaultdict
from pathlib import Path

import torch

from .case import Row
from .folder import find_jobs


def replay_folder(root: Path, only: str | None = None, models: Path | None = None) -> bool:
    """Print one row per tensor and a summary per kind; whether everything was understood and within its tolerance."""
    jobs = find_jobs(root, only, models)
    if not jobs:
        print(f"no case found in {root}")
        return False
    print(f"{'case':38} {'tensor':40} {'max error':>9} {'tolerance':>9}")
    rows: dict[str, list[Row]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for job in jobs:
        start = time.monotonic()
        with torch.inference_mode():
            for row in job.rows():
                rows[job.kind].append(row)
                print(format_row(row), flush=True)
        seconds[job.kind] += time.monotonic() - start
    print("\nsummary")
    for kind, found in rows.items():
        print(f"{summarise(kind, found)}  ({seconds[kind]:.0f} s)")
    failed = sum(not row.ok for found in rows.values() for row in found)
    print("all rows ok" if failed == 0 else f"FAILED: {failed} rows")
    return failed == 0


def format_row(row: Row) -> str:
    tolerance = "-" if row.tolerance is None else "exact" if row.tolerance == 0 else f"{row.tolerance:.0e}"
    verdict = "info" if row.tolerance is None else "ok" if row.ok else "FAILED"
    note = f"  {row.note}" if row.note else ""
    return f"{row.case:38} {row.tensor:40} {row.error:9.2g} {tolerance:>9} {verdict}{note}"


def summarise(kind: str, rows: list[Row]) -> str:
    """Cases, rows and failures of a kind, its largest error, and the row that comes closest to its tolerance."""
    compared = [row for row in rows if row.tolerance is not None]
    inexact = [row for row in compared if row.tolerance]
    text = f"{kind:10} {len({row.case for row in rows}):3} cases {len(compared):4} rows {sum(not row.ok for row in rows):3} failed"
    if not inexact:
        return text
    worst = max(inexact, key=lambda row: row.error)
    closest = max(inexact, key=lambda row: row.error / row.tolerance)
    text += f"  worst error {worst.error:.1e} ({worst.case} {worst.tensor})"
    return f"{text}, at most {closest.error / closest.tolerance:.0%} of a tolerance ({closest.case} {closest.tensor})"
