"""The command line: `python -m cli COMMAND` in the pack's folder, or `python wan_s2v_cli.py COMMAND` with its path from anywhere.

Run it with the Python that runs ComfyUI.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import spec_from_loader
from pathlib import Path

if not __package__:  # started by path: some Pythons, such as the portable ComfyUI's, do not look into the working directory
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import cli  # noqa: F401

    __package__, __spec__ = "cli", spec_from_loader("cli.__main__", None)  # Python compares them

from . import convert, doctor, fleet, predict, runs
from .command import command as own_command
from .command import let_any_text_out
from .models import download

COMMANDS = (predict, download, convert, doctor, runs, fleet)
INTERRUPTED = 130  # exit status, as of a shell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    let_any_text_out()
    parser = argparse.ArgumentParser(prog=own_command(), description="Wan S2V for ComfyUI on the command line.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
