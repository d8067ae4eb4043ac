"""What the measurements of the model calls mean. The limits come from bench/model_comparison.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..doctor.finding import OK, PROBLEM, Finding

EXACT_LIMIT = 1e-4  # in float32: random models differ by up to 2e-6, and by 4e-2 if 1 of 40 blocks gets its inputs in another order
ROUNDING_RATIO = 2.0  # of our rounding to ComfyUI's, which is the larger one on random models: 1.6 % against 0.4 % in 40 blocks
WORTHLESS = 0.25  # rounding beyond which neither says anything

Measured = Mapping[str, Any]


def judge_calls(measured: Measured) -> Iterator[Finding]:
    """Verdicts of what `calls.compare` measured: one of the function, one of its rounding."""
    cases = measured["cases"]
    yield _function(cases)
    yield _rounding(cases, measured["dtype"])
    ours, comfyui = (measured["seconds"][name] for name in ("ours", "comfyui"))
    yield Finding(OK, "Time of calls", f"ours {ours:.0f} s, ComfyUI's {comfyui:.0f} s, with loading into memory")


def _function(cases: Mapping[str, Measured]) -> Finding:
    topic = "Model calls"
    if any(case[name] is None for case in cases.values() for name in ("exact", "late")):
        return Finding(
            PROBLEM, topic, "not finite in float32, ours or ComfyUI's: the file is damaged.", "Download it again, then compare again."
        )
    words = "; ".join(f"{name} {case['exact']:.1e}" for name, case in cases.items())
    late = min(case["late"] for case in cases.values())
    scale = f"limit {EXACT_LIMIT:.0e}; with the sound three frames late it would be {late:.1e}"
    if all(case["exact"] <= EXACT_LIMIT for case in cases.values()):
        return Finding(OK, topic, f"the same function. Relative difference to ComfyUI's own model in float32: {words} ({scale})")
    text = f"NOT the same function. Relative difference to ComfyUI's own model in float32: {words} ({scale})"
    return Finding(
        PROBLEM,
        topic,
        text,
        "One of the two reads or computes something else, or ComfyUI has changed its model since 0.30. Report it with this block.",
    )


def _rounding(cases: Mapping[str, Measured], dtype: str) -> Finding:
    topic = f"In {dtype}"
    if any(case[name] is None for case in cases.values() for name in ("ours", "comfyui")):
        return Finding(
            PROBLEM, topic, f"not finite in {dtype}: black frames.", "Report it with this block; fp32 in the model loader helps."
        )
    words = "; ".join(f"{name}: ours by {case['ours']:.2%}, ComfyUI's by {case['comfyui']:.2%}" for name, case in cases.items())
    text = f"rounding moves {words}. Allowed for ours: {ROUNDING_RATIO:g} times ComfyUI's"
    if all(case["ours"] <= min(WORTHLESS, ROUNDING_RATIO * case["comfyui"]) for case in cases.values()):
        return Finding(OK, topic, text)
    return Finding(
        PROBLEM, topic, f"{text}, and no more than {WORTHLESS:.0%}", "A kernel computes too coarsely. Report it with this block."
    )
