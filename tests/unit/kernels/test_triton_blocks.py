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
FLOAT8 = {"_quantise_rows", "_head_peaks", "_quantise_heads", "_scale_product"}
PRODUCTS = {"_weights_of_keys"}  # the others read and write memory
ALL_VARIANTS, ONE_VARIANT = (80, 90, 120), (61, 70, 75, 86, 87, 89, 100, 103, 121)
FLOAT8_CAPABILITY, TENSOR_CORES, WARP_PRODUCTS = 89, 80, (80, 86, 87, 89, 120)  # those whose tensor cores a warp uses alone
LEAST_OCCUPANCY, LEAST_OF_PRODUCTS = 0.25, 0.15
MOST_SPILLED = 16  # bytes of a thread: a register or two beside 80


@pytest.mark.parametrize("capability", [*ALL_VARIANTS, *ONE_VARIANT])
def test_kernels_compile_to_good_machine_code(capability, tmp_path):
    """From Pascal to Blackwell: nothing spills, and memory moves in pieces of 16 bytes. See `products_work` for the exception."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, SCRIPT, str(capability), *(["--once"] if capability in ONE_VARIANT else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    built = json.loads(done.stdout)
    assert {each["kernel"] for each in built} == (EXACT | FLOAT8 if capability >= FLOAT8_CAPABILITY else EXACT)
    for each in built:
        judge(capability, each)


def judge(capability, built):
    counted = built["counted"]
    if built["kernel"] in PRODUCTS and capability < TENSOR_CORES:
        assert "HMMA" not in counted, "Triton knows Turing's tensor cores now: see products_work"
        return
    assert built["spilled"] <= MOST_SPILLED, built
    assert built["occupancy"] >= (LEAST_OF_PRODUCTS if built["kernel"] in PRODUCTS else LEAST_OCCUPANCY), built
    if not built["instructions"]:  # the tool that reads them does not know so new a GPU
        return
    if built["kernel"] not in PRODUCTS:
        assert counted.get("LDG.E.128", 0) > 0, built
    elif capability in WARP_PRODUCTS:
        assert counted.get("HMMA", 0) > 0, built
