"""Kill -9 at random moments: the run that goes on ends with the same files and the same video, and with nothing else in its folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
NUM_SEEDS = int(os.environ.get("CRASH_SEEDS", "10"))
NUM_LIVE_SEEDS = int(os.environ.get("CRASH_LIVE_SEEDS", "2"))
FIRST_SEED = int(os.environ.get("CRASH_FIRST_SEED", "0"))
TIMEOUT_S = 300 + 120 * max(NUM_SEEDS, NUM_LIVE_SEEDS)

pytestmark = [pytest.mark.comfy, pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked there")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("clips", NUM_SEEDS), ("live", NUM_LIVE_SEEDS)])
def test_killed_runs_end_like_an_undisturbed_one(kind, count, tmp_path):
    """The harness also starts a run twice at the same time and expects that the second start is refused."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.skip("COMFYUI_PATH is not set; scripts/test sets it")
    code = f"""
import runpy
runpy.run_path({str(CONFTEST)!r})
from wan_s2v_pack.tests.crash.harness import main
main({str(tmp_path)!r}, {FIRST_SEED}, {count}, is_live={kind == "live"})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a process with threads cannot be forked
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    deaths = result["deaths"]
    assert sum(deaths.values()) >= count
    assert count < 20 or all(deaths.values()), deaths
