"""Write anew all that is made from the code, and say which pictures are older than what they show and which pages lack a translation.

Written are: the English texts of the nodes (and texts that are gone leave the translations), the record of what saved graphs depend on,
workflows with their twins in API format and the blueprint, and the map of the rooms. One ComfyUI is started for it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cli.comfyui.client import ComfyClient  # noqa: E402
from cli.comfyui.server import PACK_NAME, ComfyServer, prepare_base_directory  # noqa: E402
from scripts.pictures import map as rooms  # noqa: E402
from scripts.pictures.outdated import HELP_PICTURES, outdated_pictures  # noqa: E402
from scripts.records.help_pages import untranslated_pages  # noqa: E402
from scripts.records.node_texts import locale_files  # noqa: E402
from scripts.records.schemas import SNAPSHOT, breaking_changes, read_snapshot, schemas_of, snapshot_text  # noqa: E402
from scripts.workflows.make import make_files  # noqa: E402

MODULE = f"custom_nodes.{PACK_NAME}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/update", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--server", metavar="URL", help=f"a running ComfyUI with this pack in custom_nodes/{PACK_NAME} (default: one is started)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing, only name the files")
    parser.add_argument("--breaking", action="store_true", help="record changes that break saved graphs, too: for a new MAJOR version")
    options = parser.parse_args(arguments)
    object_info = ComfyClient(options.server).object_info() if options.server else ask_own_server()
    broken = breaking_changes(read_snapshot(), schemas_of(object_info, MODULE))
    if broken and not options.breaking:
        print("These changes break saved graphs; take them back, or record them with --breaking. Nothing was written.", *broken, sep="\n  ")
        return 1
    changed = write_changed(made_files(object_info), ROOT, dry_run=options.check)
    for path in changed:
        print(path)
    for line in [*picture_lines(ROOT), *page_lines(untranslated_pages())]:
        print(line, file=sys.stderr)
    return 1 if options.check and changed else 0


def ask_own_server() -> dict[str, Any]:
    """What ComfyUI says about its nodes; COMFYUI_PATH names it."""
    with tempfile.TemporaryDirectory() as folder:
        base = prepare_base_directory(Path(folder), ROOT)
        with ComfyServer(Path(os.environ["COMFYUI_PATH"]), base, cpu=True, extra_args=["--disable-api-nodes"]) as server:
            return ComfyClient(server.url).object_info()


def made_files(object_info: dict[str, Any]) -> dict[str, str]:
    """Path in this checkout -> text of every file that is made from the code."""
    record = {SNAPSHOT.relative_to(ROOT).as_posix(): snapshot_text(schemas_of(object_info, MODULE))}
    return {**locale_files(), **record, **make_files(object_info), rooms.PICTURE: rooms.draw(ROOT)}


def write_changed(files: dict[str, str], root: Path, dry_run: bool = False) -> list[str]:
    """Write the files that differ, and return their paths."""
    changed = [path for path, text in files.items() if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text]
    for path in [] if dry_run else changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files[path], encoding="utf-8")
    return changed


def picture_lines(root: Path) -> Iterator[str]:
    """What to say about pictures: each command once, with those that it makes anew."""
    by_command: dict[str, list[str]] = defaultdict(list)
    for path, command in outdated_pictures(root):
        by_command[command].append(path.stem)
    if by_command:
        yield "Pictures that are older than what they show, or do not say what that is. Take them anew, and look at them:"
    for command, names in by_command.items():
        yield f"  {command} {' '.join(names)}" if command == HELP_PICTURES else f"  {command}  ({', '.join(names)})"


def page_lines(untranslated: list[str]) -> list[str]:
    """What to say about help pages."""
    return [f"Help pages that are shown in English: web/docs/{', web/docs/'.join(untranslated)}"] if untranslated else []


if __name__ == "__main__":
    sys.exit(main())
