"""`cli runs` on a run that the node made: its settings are read, and every clip is as it was written."""

from __future__ import annotations

import json
import subprocess
import sys

from .graphs import ROOT, TWO_CLIPS, quick_start


def runs(renderer, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "cli"), "runs", *arguments, "--output-dir", str(renderer.server.output_directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_of_the_node_is_understood(renderer):
    renderer.render(quick_start(seed=300, run_name="looked at", filename_prefix="runs/looked_at", **TWO_CLIPS))
    shown = runs(renderer, "show", "looked at")
    assert (shown.returncode, shown.stderr) == (0, "")
    for text in ("64x64, 2/2 clips of 16 frames (1 s), 1.5 s finished, sync aligned", "content ", "wan_s2v_tiny.safetensors", "seed 300"):
        assert text in shown.stdout
    facts = json.loads(runs(renderer, "show", "looked at", "--json").stdout)
    assert [clip["frames"] for clip in facts["clip_table"]] == [13, 11]
    assert (facts["finished"], facts["in_use"], facts["leftovers"], facts["strange"]) == (True, False, [], [])
    verified = runs(renderer, "verify", "looked at")
    assert (verified.returncode, verified.stdout) == (0, "run 'looked at': 2 clips; all are as they were written\n")
