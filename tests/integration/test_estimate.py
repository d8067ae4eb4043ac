"""The estimate in the log before sampling."""

from __future__ import annotations

import re

import pytest

from .graphs import THREE_CLIPS, TWO_CLIPS, quick_start


def log_of(renderer, prompt) -> str:
    """What the server logs while it renders a prompt."""
    before = len(renderer.server.log_text())
    renderer.render(prompt)
    return renderer.server.log_text()[before:]


@pytest.mark.parametrize(("cfg", "calls"), [(4.5, "2 model calls"), (1.0, "1 model call")])
def test_estimate_is_in_the_log_before_the_first_clip(cfg, calls, renderer):
    log = log_of(renderer, quick_start(cfg=cfg, seed=300, **TWO_CLIPS))
    line = re.search(rf"estimate: 2 clips of 64x64, \d+ tokens, 2 steps of {calls}: .* on the CPU; RAM: [\d.]+ GB, \d.* free", log)
    assert line is not None
    assert line.end() < log.index("clip 1 of 2 finished")


def test_estimate_counts_only_the_clips_that_are_left(renderer):
    run = {"seed": 301, "run_name": "estimated", "filename_prefix": "runs/estimated", **THREE_CLIPS}
    assert "estimate: 3 clips of 64x64" in log_of(renderer, quick_start(**run))
    assert "estimate: 1 clip of 64x64" in log_of(renderer, quick_start(**run, redo_from_clip=3))
