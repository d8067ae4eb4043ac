"""How this command line was started: messages print the command that works where the user stands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

DEFAULT = "python -m cli"
FILE = "wan_s2v_cli.py"


def command(arguments: str = "") -> str:
    """What a shell takes to start this command line once more, with other arguments."""
    return f"{_as_typed()} {arguments}".rstrip()


def _as_typed() -> str:
    script = Path(sys.argv[0])
    is_ours = script.name in (FILE, "cli") or (script.name == "__main__.py" and script.parent.name == "cli")
    if not is_ours:
        return DEFAULT
    words = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def let_any_text_out() -> None:
    """Write characters that a console or a file does not know as numbers, such as a name in Chinese on a Western Windows."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):  # pythonw has none; a test may have put others in their place
            stream.reconfigure(errors="backslashreplace")
