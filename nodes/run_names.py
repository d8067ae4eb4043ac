"""Named runs: which names there may be, and where their folders are."""

import re
from pathlib import Path

import folder_paths

RUN_NAME = re.compile(r"[\w][\w .-]{0,99}")


def run_name_problem(run_name: str | None) -> str | None:
    """What is wrong with a name, None if nothing; a linked one is not known yet."""
    if run_name and not RUN_NAME.fullmatch(run_name):
        return (
            "run_name may hold letters, digits, spaces, dots, dashes and underscores, at most 100 of them, and begins with a letter, "
            f"digit or underscore; got {run_name!r}."
        )
    return None


def run_folder(run_name: str) -> Path:
    """The folder of a named run, which may not exist yet."""
    return Path(folder_paths.get_output_directory()) / "wan_s2v_runs" / run_name
