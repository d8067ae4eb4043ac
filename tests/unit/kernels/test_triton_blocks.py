"""Every Triton kernel can be built for the GPUs it is used on; what they compute is tested in test_fused.py and test_float8.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compile_kernels.py"
EXACT = {"_rms_norm_rope", "_add_norm", "_weights_of_keys"}
FLOAT8 = {"_quantise_rows", "_head_peaks", "_quantise_heads"}


@pytest.mark.parametrize(("capability", "expected"), [(80, EXACT), (90, EXACT | FLOAT8), (120, EXACT | FLOAT8)])
def test_kernels_compile_to_machine_code(capability, expected, tmp_path):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPT, str(capability)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    built = json.loads(done.stdout)
    assert {line.partition(",")[0] for line in built} == expected
