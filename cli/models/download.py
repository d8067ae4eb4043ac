"""`download`: the model files by name and precision into ComfyUI's model folders."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .files import BY_DEFAULT, PARTS, PRECISIONS, SETS, ModelFile, select
from .folders import COMFYUI_HELP, MODELS_HELP, FolderError, ModelFolders, find_base, find_model_folders

try:
    from ...wan_s2v_model.files import make_way, remove, replace
    from ...wan_s2v_model.untrusted import open_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import make_way, remove, replace
    from wan_s2v_model.untrusted import open_plain

if TYPE_CHECKING:
    from .hub import RemoteFile

GB = 1e9
ROUNDING_BYTES = 6e7  # by which a published size may differ from its rounded one
HASH_BLOCK_BYTES = 2**22
INTERRUPTED = 130  # exit status, as of a shell

DESCRIPTION = """Download the model files into ComfyUI's model folders.

A file that is there already is not fetched again, a broken download goes on where it stopped, and a file gets its name only after
its size and its hash were found to be right. HF_ENDPOINT names a mirror of the hub, HF_TOKEN your token for it."""


class DownloadError(Exception):
    """Something the user can put right."""


@dataclass(frozen=True)
class Task:
    """One file, and what is to be done about it.

    Attributes:
        target: where it is, or will be.
        reason: why it has to be fetched, "" if it is in place.
    """

    remote: RemoteFile
    target: Path
    reason: str

    @property
    def partial(self) -> Path:
        """Where the bytes are collected; ComfyUI does not list this name."""
        return self.target.with_name(f"{self.target.name}.{self.remote.digest[:8]}.part")

    @property
    def present_bytes(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    @property
    def missing_bytes(self) -> int:
        return max(self.remote.size - self.present_bytes, 0) if self.reason else 0


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "download",
        help="download the model files into ComfyUI's model folders",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", choices=SETS, default="comfy", help="ComfyUI's single files, or the official folder (default: comfy)")
    precision = "fp8: half the size, less exact; what the templates name (default: fp8, of the official set bf16)"
    parser.add_argument("--precision", choices=PRECISIONS, help=precision)
    parser.add_argument(
        "--only", type=_parts, metavar="PART,...", default=BY_DEFAULT, help=f"of {', '.join(PARTS)} (default: all but live)"
    )
    parser.add_argument("--comfyui", type=Path, metavar="DIR", help=COMFYUI_HELP)
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help=MODELS_HELP)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be downloaded, without asking the hub")
    parser.add_argument("--verify", action="store_true", help="check the hash of files that are there already, too")
    parser.add_argument("--yes", action="store_true", help="do not ask before downloading")
    parser.set_defaults(run=run)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    return parts


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status: 0 if all files are in place (or would be), 1 on an error, 130 when interrupted."""
    try:
        from .hub import HubError
    except ImportError as error:
        print(f"download failed: {error}. Use the Python that runs ComfyUI, which has huggingface_hub.", file=sys.stderr)
        return 1
    try:
        return download(options)
    except (DownloadError, FolderError, HubError) as error:
        print(f"download failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"download failed: {_local_problem(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndownload interrupted; run the same command again, it goes on where it stopped", file=sys.stderr)
        return INTERRUPTED


def _local_problem(error: OSError) -> str:
    """Say what this machine refuses; the hub's errors have words of their own."""
    place, reason = error.filename2 or error.filename or "A file", error.strerror or type(error).__name__
    return (
        f"{place} cannot be read or written ({reason}). Close programs that use it, such as ComfyUI, check whose file it is, "
        "or choose another folder with --models-dir. Then run the same command again; it goes on where it stopped."
    )


def download(options: argparse.Namespace) -> int:
    """Look up the chosen files, show what is missing, and fetch it."""
    files = select(options.set, options.precision, options.only)
    if not files:
        precision = options.precision or SETS[options.set]
        raise DownloadError(f"The {options.set} set has no {precision} file of {', '.join(options.only)}. Use --set comfy.")
    base = None if options.models_dir else find_base(options.comfyui)
    folders = find_model_folders(base, options.models_dir)
    asks_hub = options.verify or not options.dry_run
    tasks = [plan(file, folders, verify=options.verify) if asks_hub else expect(file, folders) for file in files]
    show(tasks, folders)
    if not asks_hub:
        print("sizes are rounded, as the hub was not asked")
    missing = [task for task in tasks if task.reason]
    check_disk(missing)
    if options.dry_run or not missing:
        return 0
    if not (options.yes or confirmed()):
        print("nothing was downloaded")
        return 1
    for task in missing:
        install(task)
    print(f"all {len(tasks)} files are in place; press R in ComfyUI to see them")
    return 0


def plan(file: ModelFile, folders: ModelFolders, *, verify: bool) -> Task:
    """Find out whether a file has to be fetched.

    Args:
        verify: compare the hash of a file that is there, not only its size.
    Raises:
        DownloadError: if a folder has the name of the file.
    """
    from .hub import look_up

    remote = look_up(file)
    present = folders.find(file.folder, file.name)
    if present is None:
        return Task(remote, _new_place(file, folders), "to download")
    if (size := present.stat().st_size) != remote.size:
        return Task(remote, present, f"to replace, has {size:,} bytes instead of {remote.size:,}")
    if verify and digest_of(present, remote.digest) != remote.digest:
        return Task(remote, present, "to replace, has another hash")
    return Task(remote, present, "")


def expect(file: ModelFile, folders: ModelFolders) -> Task:
    """What `plan` will probably find out, from the rounded size alone."""
    from .hub import RemoteFile

    size, present = round(file.gigabytes * GB), folders.find(file.folder, file.name)
    target = present or _new_place(file, folders)
    begun = next(target.parent.glob(f"{target.name}.????????.part"), None)
    remote = RemoteFile(file, file.url, "" if begun is None else begun.name.split(".")[-2], size)
    if present is None:
        return Task(remote, target, "to download")
    if abs((found := present.stat().st_size) - size) > ROUNDING_BYTES:
        return Task(remote, present, f"to replace, has {found / GB:.2f} GB instead of {file.gigabytes:.2f}")
    return Task(remote, present, "")


def _new_place(file: ModelFile, folders: ModelFolders) -> Path:
    target = folders.models / file.folder / file.name
    if target.is_dir():
        raise DownloadError(f"{target} is a folder, and the file needs its name. Move it away, or choose another folder with --models-dir.")
    return target


def show(tasks: Sequence[Task], folders: ModelFolders) -> None:
    """Print a line per file and the sum."""
    print(f"models folder: {folders.models}")
    width = max(len(task.remote.file.name) for task in tasks)
    for task in tasks:
        state = task.reason or "in place"
        if task.reason and task.present_bytes:
            state += f" ({task.present_bytes / GB:.2f} GB of it are there)"
        print(f"  {task.remote.file.name:{width}}  {task.remote.size / GB:6.2f} GB  {task.remote.file.folder}: {state}")
    print(f"to download: {sum(task.missing_bytes for task in tasks) / GB:.2f} GB")


def check_disk(tasks: Sequence[Task]) -> None:
    """Raise DownloadError unless every disk has room for what will be written to it."""
    needed: Counter[int] = Counter()
    places: dict[int, Path] = {}
    for task in tasks:
        folder = task.target.parent.resolve()
        place = next(place for place in (folder, *folder.parents) if place.is_dir())
        disk = place.stat().st_dev
        places.setdefault(disk, place)
        needed[disk] += task.missing_bytes
    for disk, place in places.items():
        free = shutil.disk_usage(place).free
        if needed[disk] > free:
            raise DownloadError(
                f"The files need {needed[disk] / GB:.2f} GB in {place}, but only {free / GB:.2f} GB are free. "
                "Make room, choose the smaller files (--precision fp8), or another disk with --models-dir."
            )


def confirmed() -> bool:
    """Ask on a terminal; a script has said enough by starting the command. No answer at all is a no."""
    if sys.stdin is None or not sys.stdin.isatty():
        return True
    try:
        return input("Go on? [Y/n] ").strip().lower() in ("", "y", "yes")
    except EOFError:
        print("\nThere was no answer. Use --yes to download without being asked.", file=sys.stderr)
        return False


def install(task: Task) -> None:
    """Fetch a file, check it, and only then give it its name.

    Raises:
        DownloadError: if the hash is wrong; the file is deleted then.
    """
    from .hub import ENDPOINT, fetch

    name, digest = task.remote.file.name, task.remote.digest
    try:
        task.partial.parent.mkdir(parents=True, exist_ok=True)
        make_way(task.partial)
        if task.present_bytes > task.remote.size:
            remove(task.partial)
        task.partial.open("ab").close()
    except OSError as error:
        place = task.partial.parent
        raise DownloadError(f"{place} cannot be written ({error.strerror}). Choose another folder with --models-dir.") from error
    fetch(task.remote, task.partial)
    print(f"  checking the hash of {name}", flush=True)
    if (found := digest_of(task.partial, digest)) != digest:
        remove(task.partial)
        raise DownloadError(
            f"{name} from {ENDPOINT} is not the file that the hub describes: its hash is {found}, not {digest}. It was deleted. "
            "Run the same command again; if that does not help, another mirror or network has to be used."
        )
    _require_published(task)
    replace(task.partial, task.target)


def _require_published(task: Task) -> None:
    """Compare a file with the hash that the pack knows: the hub's own comes from the same host as the file."""
    known, name = task.remote.file.sha256, task.remote.file.name
    if not known:
        print(f"  the pack knows no hash of {name} yet: it is as safe as the host that it came from", flush=True)
    elif (found := digest_of(task.partial, known)) != known:
        remove(task.partial)
        raise DownloadError(f"{name} is not the published file: its hash is {found}, not {known}. It was deleted. Use another mirror.")


def digest_of(path: Path, like: str) -> str:
    """The hash of a file, of the kind that the hub uses: SHA-256 (64 digits), or git's SHA-1 of small files (40)."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open_plain(path, through_links=True) as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
