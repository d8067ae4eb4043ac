"""Commands in a process of their own that a test interrupts."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path


def start_and_heed(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Start a command that heeds SIGINT, which a shell lets its background jobs ignore; what it says goes into pipes."""
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=heed, **pipes)
