"""Ruff, mypy and the unit tests that take little time, and how long each took: scripts/test --quick [arguments of pytest].

The slow files of tests/unit are left out; `scripts/test tests/unit` runs them, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_CPU_S = 60
SLOW_FILES = (  # of tests/unit, each more than a second of CPU
    *("audio/test_loudness.py", "audio/test_wav2vec2.py", "checkpoints/test_wav2vec2.py"),
    *("cli/comfyui/test_client.py", "cli/comfyui/test_server.py", "cli/comfyui/test_transport.py", "cli/models/test_download.py"),
    *(
        "cli/test_command.py",
        "cli/predict/test_connection.py",
        "cli/runs/test_runs.py",
        "conditioning/test_picture.py",
        "cost/test_estimate.py",
    ),
    *("kernels/test_float8.py", "kernels/test_fused.py", "kernels/test_linears.py", "kernels/test_triton_blocks.py"),
    *("media/test_sound.py", "media/test_speech_worker.py", "media/test_video_reader.py", "media/test_video_writer.py"),
    *("reports/test_drift_plot.py", "reports/test_sync.py", "reports/test_sync_offset.py"),
    *("runs/test_clips.py", "runs/test_finish.py", "runs/test_finish_hour.py", "runs/test_stable_text.py", "runs/test_store.py"),
    *(
        "runs/test_store_faults.py",
        "runs/test_tail.py",
        "sampling/test_continuity.py",
        "test_files.py",
        "test_files_held.py",
        "test_published_files.py",
    ),
    *("transformer/test_model.py", "transformer/test_model_compile.py", "transformer/test_model_shared_attention.py"),
    "tts_worker/test_cosyvoice_worker.py",
)


def main(arguments: Sequence[str]) -> int:
    failed, spent_s = [], 0.0
    for name, command in checks(arguments).items():
        code, cpu_s, wall_s = timed(command)
        spent_s += cpu_s
        failed += [name] * bool(code)
        print(f"== {name}: {'FAILED' if code else 'passed'}, {cpu_s:.1f} s of CPU, {wall_s:.1f} s", flush=True)
    print(f"== together {spent_s:.0f} s of CPU{', FAILED: ' + ', '.join(failed) if failed else ''}")
    if spent_s > MOST_CPU_S:
        print(f"That is more than {MOST_CPU_S} s: name the slow files in scripts/quick.py (pytest --durations=20 finds them).")
    return 1 if failed else 0


def checks(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Name -> command line."""
    left_out = [f"--ignore=tests/unit/{path}" for path in SLOW_FILES]
    return {
        "ruff": [sys.executable, "-m", "ruff", "check", "--quiet", "."],
        "format": [sys.executable, "-m", "ruff", "format", "--quiet", "--check", "."],
        "mypy": [sys.executable, "-m", "mypy"],
        "quick tests": [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *left_out, "tests/unit", *arguments],
    }


def timed(command: Sequence[str]) -> tuple[int, float, float]:
    """Run a command in the checkout, in one thread: its exit status, seconds of CPU, seconds on the clock."""
    before, start_s = os.times(), time.monotonic()
    code = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return code, cpu_s, time.monotonic() - start_s


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
