"""The doctor beside a running ComfyUI with the tiny model set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_doctor_has_no_complaint_about_a_working_server(server, comfyui_path):
    command = [sys.executable, "-m", "cli", "doctor", "--json", "--server", server.url]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    findings = {finding["topic"]: finding for finding in reversed(json.loads(ended.stdout))}
    assert [finding for finding in findings.values() if finding["status"] == "problem"] == []
    assert ended.returncode == 0
    for topic in ("ComfyUI", "Server", "Python", "PyTorch", "Model", "Text encoder", "Audio encoder", "VAE", "This pack"):
        assert findings[topic]["status"] == "ok", findings[topic]
    assert findings["Server"]["text"].endswith("with this pack, started with --cpu")
    assert "wan_s2v_tiny.safetensors (bf16" in findings["Model"]["text"]  # found through the server's --base-directory
