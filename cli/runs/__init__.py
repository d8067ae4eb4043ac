"""`runs`: list, inspect, verify and clean up the run folders of Sample Video (Wan S2V)."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.folders import COMFYUI_HELP, FolderError, find_base
from . import report
from .folder import RUNS_FOLDER, RunsError, find_run, find_runs
from .removal import Removal, plan_clean, plan_delete, remove
from .verify import verify

try:
    from ...wan_s2v_model.untrusted import printable
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import printable

DESCRIPTION = """The runs that Sample Video (Wan S2V) keeps under a run name: one folder each in output/wan_s2v_runs.

Nothing here changes a run that is in use, and nothing is removed without --yes."""
OUTPUT_HELP = "ComfyUI's output folder, where it is not in ComfyUI's folder"
YES_HELP = "do it; without it the command only shows what would go"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command, its subcommands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("runs", help="list, inspect, verify and clean up runs", description=DESCRIPTION, formatter_class=raw)
    actions = parser.add_subparsers(title="commands", metavar="ACTION", required=True)
    _add_action(actions, "list", "one line per run", _list)
    _add_action(actions, "show", "settings and clips of a run, and what comes next", _show).add_argument("name", metavar="NAME")
    _add_action(actions, "verify", "compare every clip with its hash", _verify).add_argument("name", metavar="NAME")
    delete = _add_action(actions, "delete", "remove whole runs", _delete)
    delete.add_argument("names", nargs="+", metavar="NAME")
    delete.add_argument("--yes", action="store_true", help=YES_HELP)
    clean = _add_action(actions, "clean", "remove what crashes left behind, and old runs that are named", _clean)
    clean.add_argument("names", nargs="*", metavar="NAME", help="runs to remove if they are old; * and ? are understood, in quotes")
    clean.add_argument("--older-than", type=float, metavar="DAYS", help="days without a change after which a named run goes")
    clean.add_argument("--yes", action="store_true", help=YES_HELP)


def _add_action(actions: argparse._SubParsersAction, name: str, text: str, action: Any) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help=COMFYUI_HELP)
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help=OUTPUT_HELP)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, action=action)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run one action and return the exit status: 1 if something is wrong with a run or the command, else 0."""
    try:
        return options.action(find_place(options.comfyui, options.output_dir), options)
    except (FolderError, RunsError) as error:
        print(printable(str(error)), file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or 'The run folder'} cannot be used: {error.strerror or error}.", file=sys.stderr)
    return 1


def find_place(comfyui: Path | None, output: Path | None) -> Path:
    """The folder that holds the runs.

    Raises:
        FolderError: if no ComfyUI is found, or the output folder does not exist.
    """
    if output is not None and not output.is_dir():
        raise FolderError(f"There is no folder {output}. --output-dir is the folder in which ComfyUI saves.")
    if output is None:
        found = find_base(comfyui)
        if found is None:
            raise FolderError("No ComfyUI was found. Give its folder with --comfyui, or its output folder with --output-dir.")
        output = found / "output"
    return output.resolve() / RUNS_FOLDER


def _list(place: Path, options: argparse.Namespace) -> int:
    runs = find_runs(place)
    free = shutil.disk_usage(place).free if place.is_dir() else None
    facts = {"folder": str(place), "free_bytes": free, "runs": [report.run_facts(item) for item in runs]}
    _print(options, facts, lambda: report.list_text(runs, str(place), free, time.time()))
    return 0


def _show(place: Path, options: argparse.Namespace) -> int:
    found = find_run(place, options.name)
    _print(options, report.show_facts(found), lambda: report.show_text(found, time.time()))
    return 0


def _verify(place: Path, options: argparse.Namespace) -> int:
    found = verify(find_run(place, options.name), _show_progress if sys.stderr.isatty() else _ignore)
    _print(options, report.verify_facts(found), lambda: report.verify_text(found))
    return int(found.redo_from is not None)


def _delete(place: Path, options: argparse.Namespace) -> int:
    return _remove_all(plan_delete(find_runs(place), options.names), options)


def _clean(place: Path, options: argparse.Namespace) -> int:
    return _remove_all(plan_clean(find_runs(place), options.names, options.older_than, time.time()), options)


def _remove_all(removals: Sequence[Removal], options: argparse.Namespace) -> int:
    """Show what would go, and with --yes remove it; 1 if something may not or cannot be removed."""
    text, facts = report.removal_text(removals), [report.removal_facts(removal) for removal in removals]
    free = [removal for removal in removals if not removal.blocked]
    if not options.json:
        print(printable(text))
    errors = [error for removal in free if (error := _try_to_remove(removal))] if options.yes else []
    freed = report.size_text(sum(removal.size_bytes for removal in free))
    if options.json:
        print(json.dumps({"done": options.yes, "removals": facts, "errors": errors}, indent=2))
    elif free and not options.yes:
        print(f"\nnothing was removed yet; --yes removes this and frees {freed}")
    elif free and not errors:
        print(f"\nremoved; {freed} are free again")
    for error in errors:
        print(error, file=sys.stderr)
    return int(len(free) < len(removals) or bool(errors))


def _try_to_remove(removal: Removal) -> str:
    try:
        remove(removal)
    except RunsError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename} cannot be deleted: {error.strerror}."
    return ""


def _print(options: argparse.Namespace, facts: dict[str, Any], text: Any) -> None:
    print(json.dumps(facts, indent=2) if options.json else printable(text()))


def _show_progress(done: int, total: int) -> None:
    print(f"\rverifying clip {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _ignore(_done: int, _total: int) -> None:
    pass
