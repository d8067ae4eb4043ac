"""Values that nobody means, for drawn input: what JSON carries, as widgets and links hand it over. And how they are drawn."""

from __future__ import annotations

import math

import pytest

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is in requirements-dev.txt")
ONLY_DRAWN = {  # each case once: a failure is not made smaller, which would take hours
    "phases": [hypothesis.Phase.generate],
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
}

TEXTS = [
    *("", " ", "x", "../..", "a\0b", "a\ud800b", "\x1b[31m", "<b>", "x" * 5000, "0:15 hello", "127.0.0.1:99999", "%date:yyyy%"),
    *("C:\\x", "nul", "\u202eevil", "\N{GRINNING FACE}" * 90, "NaN", "1e999", "\u0661\u0662", "__class__", "{}", "%s%n"),
]
NUMBERS = [0, -1, 1, 7, 2**63, 2**64, -(2**70), 10**30, 0.0, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf, True, False]
JSON_VALUES = [
    *(*TEXTS, *NUMBERS, None, [], {}, [None], [[]], [1, 2, 3], ["x"], {"a": 1}, {"__value__": 5}, {"__value__": [1]}),
    *([{"a": [1]}], [0.5, "x"], list(range(500)), {"size": "custom"}, "x" * 100_000, -(10**400)),
]
