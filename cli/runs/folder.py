"""Reads run folders without PyTorch and without changing them, also while a run is in use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import Timeout

from ..models.headers import HeaderError, read_header

try:
    from ...wan_s2v_model.files import READER_SUFFIX, FolderLock, has_readers, is_folder_held, is_held
    from ...wan_s2v_model.files import reading as reading  # for its neighbours
    from ...wan_s2v_model.runs import manifest as run_format
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import READER_SUFFIX, FolderLock, has_readers, is_folder_held, is_held
    from wan_s2v_model.files import reading as reading
    from wan_s2v_model.runs import manifest as run_format

LIVE_VIDEO_NAME, LOCK_NAME, MANIFEST_NAME = run_format.LIVE_VIDEO_NAME, run_format.LOCK_NAME, run_format.MANIFEST_NAME
RUNS_FOLDER = run_format.RUNS_FOLDER
NO_MANIFEST = f"no {MANIFEST_NAME}"
NOTHING_READ = run_format.Manifest(version=None)
CLIP_NAME = run_format.CLIP_NAME


class RunsError(Exception):
    """Something the user can put right."""


class InUseError(RunsError):
    """Another process works on the run, or reads it."""


@dataclass(frozen=True)
class Clip:
    """A clip that the manifest lists.

    Attributes:
        sha256: of its file, "" where the manifest does not say.
        changed: seconds since 1970; 0 when there is no file.
        size_px: width and height.
        problem: why the file cannot be used, as far as its header tells.
    """

    index: int
    path: Path
    sha256: str = ""
    size_bytes: int = 0
    changed: float = 0.0
    num_frames: int = 0
    size_px: tuple[int, int] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        in_use: another process works on it or reads it; None where the disk has no locks.
        clips: as the manifest lists them.
        problem: why the manifest cannot be read; it is empty then.
        leftovers: files of writes that a crash cut off; while the run is in use they may be writes in progress.
        strange: names of files that no run has.
    """

    folder: Path
    size_bytes: int
    changed: float
    in_use: bool | None
    manifest: run_format.Manifest = NOTHING_READ
    clips: tuple[Clip, ...] = ()
    leftovers: tuple[Path, ...] = ()
    strange: tuple[str, ...] = ()
    problem: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        return self.manifest.fingerprint

    @property
    def fps(self) -> int:
        return self.manifest.frame_rate

    @property
    def num_finished(self) -> int:
        """Clips before the first one that is missing or damaged."""
        return next((clip.index for clip in self.clips if clip.problem), len(self.clips))

    @property
    def num_clips(self) -> int | None:
        return _integer(self.settings.get("clips"))

    @property
    def is_foreign(self) -> bool:
        """Nothing in the folder is of a run."""
        return self.problem == NO_MANIFEST and not _holds_clips(self.folder)

    @property
    def is_finished(self) -> bool:
        return self.num_clips is not None and self.num_finished >= self.num_clips

    @property
    def num_frames(self) -> int:
        return sum(clip.num_frames for clip in self.clips[: self.num_finished])

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height, of the first clip or else of the settings."""
        width, height = _integer(self.settings.get("width")), _integer(self.settings.get("height"))
        planned = (width, height) if width and height else None
        return next((clip.size_px for clip in self.clips if clip.size_px), planned)


def find_runs(place: Path) -> list[Run]:
    """All runs below the folder, by name; none when there is no such folder."""
    try:
        folders = [folder for folder in sorted(place.iterdir()) if folder.is_dir()]
    except FileNotFoundError:
        return []
    return [_read_run_or_why_not(folder) for folder in folders]


def _read_run_or_why_not(folder: Path) -> Run:
    """One folder that cannot be looked at takes no command away."""
    try:
        return read_run(folder)
    except OSError as error:
        return Run(folder, size_bytes=0, changed=0.0, in_use=None, problem=f"the folder cannot be read ({error.strerror or error})")


def find_run(place: Path, name: str) -> Run:
    """The run of this name.

    Raises:
        RunsError: if there is none.
    """
    names = sorted(folder.name for folder in place.iterdir() if folder.is_dir()) if place.is_dir() else []
    if name not in names:
        known = f"It holds {', '.join(names)}." if names else "It holds no runs."
        raise RunsError(f"There is no run '{name}' in {place}. {known}")
    return read_run(place / name)


def read_run(folder: Path) -> Run:
    """Look at a run folder; what is wrong with it is a fact of the result, not an error."""
    in_use = is_in_use(folder)
    entries = sorted(folder.iterdir())
    files = [path for path in entries if path.is_file() and not path.is_symlink()]
    facts = {path: path.stat() for path in files}
    changed = max((fact.st_mtime for path, fact in facts.items() if path.name != LOCK_NAME), default=folder.stat().st_mtime)
    manifest, problem = _read_manifest(folder)
    clips = [folder / run_format.clip_name(index) for index in range(manifest.num_clips)]
    readers = {path.name for path in entries if path.suffix == READER_SUFFIX and is_held(path)}
    own = {MANIFEST_NAME, LOCK_NAME, LIVE_VIDEO_NAME, *(path.name for path in clips), *readers}
    others = [path for path in entries if path.name not in own]
    is_run = problem != NO_MANIFEST or _holds_clips(folder)
    leftovers = tuple(path for path in others if is_run and path in facts and _is_leftover(path, manifest_is_read=not problem))
    return Run(
        folder=folder,
        size_bytes=sum(fact.st_size for fact in facts.values()),
        changed=changed,
        in_use=in_use,
        manifest=manifest,
        clips=tuple(_read_clip(index, path, sha256) for index, (path, sha256) in enumerate(zip(clips, manifest.hashes, strict=True))),
        leftovers=leftovers,
        strange=tuple(path.name for path in others if path not in leftovers and not CLIP_NAME.fullmatch(path.name)),
        problem=problem,
    )


def _holds_clips(folder: Path) -> bool:
    return any(CLIP_NAME.fullmatch(path.name) for path in folder.iterdir())


def is_in_use(folder: Path) -> bool | None:
    """Whether a process works on the run or reads it; None where the disk has no locks."""
    try:
        (folder / LOCK_NAME).stat()  # only a look: none is made
        with locked(folder):
            return False
    except InUseError:
        return True
    except FileNotFoundError:
        return is_folder_held(folder) or has_readers(folder)
    except OSError:
        return None


def locked(folder: Path) -> FolderLock:
    """Hold the run, so that nobody starts to work on it, until the end of a `with` block.

    Raises:
        InUseError: another process works on it or reads it.
        OSError: the folder cannot be written, or its disk has no locks.
    """
    try:
        lock = FolderLock(folder / LOCK_NAME)
    except Timeout as error:
        raise InUseError(f"Run '{folder.name}' is in use by another process. Wait for it to end, or cancel it.") from error
    if has_readers(folder):
        lock.release()
        raise InUseError(f"Run '{folder.name}' is being read by another process. Wait for it to end, or cancel it.")
    return lock


def _read_manifest(folder: Path) -> tuple[run_format.Manifest, str]:
    """The manifest, and what is wrong with it."""
    try:
        return run_format.read_manifest(folder), ""
    except FileNotFoundError:
        return NOTHING_READ, NO_MANIFEST
    except OSError as error:
        return NOTHING_READ, f"{MANIFEST_NAME} cannot be read ({error.strerror})"
    except run_format.NewerManifestError as error:
        return NOTHING_READ, str(error).removeprefix("was ")
    except run_format.ManifestError as error:
        return NOTHING_READ, f"{MANIFEST_NAME} {error}"


def _is_leftover(path: Path, *, manifest_is_read: bool) -> bool:
    return bool(run_format.LEFTOVER.fullmatch(path.name) or (manifest_is_read and CLIP_NAME.fullmatch(path.name)))


def _read_clip(index: int, path: Path, sha256: str) -> Clip:
    clip = Clip(index, path, sha256)
    try:
        facts = path.stat()
        clip = replace(clip, size_bytes=facts.st_size, changed=facts.st_mtime)
        header = read_header(path)
    except FileNotFoundError:
        return replace(clip, problem="is missing")
    except HeaderError as error:
        return replace(clip, problem=f"is damaged ({error})")
    except OSError as error:
        return replace(clip, problem=f"cannot be read ({error.strerror})")
    if problem := run_format.clip_problem(header):
        return replace(clip, problem=f"is damaged ({problem})")
    num_frames, height, width, _ = header["frames"]["shape"]
    return replace(clip, num_frames=num_frames, size_px=(width, height))


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
