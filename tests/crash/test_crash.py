"""Kill -9 at random moments: the run that goes on ends with the same bytes, and with nothing else in its folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
NUM_SEEDS = int(os.environ.get("CRASH_SEEDS", "20"))  # 100 take 45 s on two idle cores and minutes on busy ones
TIMEOUT_S = 30 + 10 * NUM_SEEDS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked there")


@pytest.mark.slow
def test_killed_runs_end_like_an_undisturbed_one(tmp_path):
    """The harness also starts a run twice at the same time and expects that the second start is refused."""
    code = f"import runpy; runpy.run_path({str(CONFTEST)!r}); from wan_s2v_pack.tests.crash.harness import main"
    command = [sys.executable, "-c", f"{code}; main({str(tmp_path)!r}, {NUM_SEEDS})"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    deaths = json.loads(done.stdout.splitlines()[-1])["deaths"]
    assert all(deaths.values()), deaths
    assert sum(deaths.values()) >= NUM_SEEDS
