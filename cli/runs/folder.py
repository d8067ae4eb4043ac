"""Reads run folders without PyTorch and without changing them, also while a run is in use."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..models.headers import HeaderError, read_header

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

RUNS_FOLDER = "wan_s2v_runs"  # in ComfyUI's output folder
FORMAT = "wan_s2v_run"
NEWEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
NO_MANIFEST = f"no {MANIFEST_NAME}"
LOCK_NAME = "run.lock"
LIVE_VIDEO_NAME = "in_progress.mp4"
TEMPORARY_SUFFIX = ".tmp"
PARTIAL_VIDEO = re.compile(r"\.part\.\w+$")
CLIP_NAME = re.compile(r"clip_\d{5,}\.safetensors")
FPS = 16
TENSORS = {"latents": ("F32", 4), "frames": ("U8", 4), "motion_latents": ("F32", 5), "history": ("F32", 4)}  # type, axes
NEEDED_TENSORS = ("latents", "frames")


class RunsError(Exception):
    """Something the user can put right."""


class InUseError(RunsError):
    """Another process holds the run."""


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
class Manifest:
    """The content of manifest.json.

    Attributes:
        settings: what decides the result, its "fingerprint".
        clips: name and SHA-256 ("" where it is not given) of every finished clip.
        made_with: versions of programs, each with `from_clip`, the first clip that was made with them.
    """

    version: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    clips: tuple[tuple[str, str], ...] = ()
    made_with: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        in_use: another process holds it; None where the disk has no locks.
        clips: as the manifest lists them.
        problem: why the manifest cannot be read; it is empty then.
        leftovers: files of writes that a crash cut off; while the run is in use they may be writes in progress.
        strange: names of files that no run has.
    """

    folder: Path
    size_bytes: int
    changed: float
    in_use: bool | None
    manifest: Manifest = Manifest()
    clips: tuple[Clip, ...] = ()
    leftovers: tuple[Path, ...] = ()
    strange: tuple[str, ...] = ()
    problem: str = ""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def settings(self) -> dict[str, Any]:
        return self.manifest.settings

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
        return self.problem == NO_MANIFEST and not any(CLIP_NAME.fullmatch(path.name) for path in self.folder.iterdir())

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
        return [read_run(folder) for folder in sorted(place.iterdir()) if folder.is_dir()]
    except FileNotFoundError:
        return []


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
    try:
        manifest, problem = read_manifest(folder), ""
    except RunsError as error:
        manifest, problem = Manifest(), str(error)
    own = {MANIFEST_NAME, LOCK_NAME, LIVE_VIDEO_NAME, *(name for name, _ in manifest.clips)}
    others = [path for path in entries if path.name not in own]
    leftovers = tuple(path for path in others if path in facts and _is_leftover(path, manifest_is_read=not problem))
    return Run(
        folder=folder,
        size_bytes=sum(fact.st_size for fact in facts.values()),
        changed=changed,
        in_use=in_use,
        manifest=manifest,
        clips=tuple(_read_clip(index, folder / name, sha256) for index, (name, sha256) in enumerate(manifest.clips)),
        leftovers=leftovers,
        strange=tuple(path.name for path in others if path not in leftovers and not CLIP_NAME.fullmatch(path.name)),
        problem=problem,
    )


def read_manifest(folder: Path) -> Manifest:
    """What a run folder says of itself.

    Raises:
        RunsError: if there is no manifest, it is damaged, or of a newer version.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_bytes())
        if manifest["format"] != FORMAT:
            raise KeyError(FORMAT)
        version = int(manifest["version"])
        if version > NEWEST_VERSION:
            raise RunsError(f"made by a newer version of this pack (run format {version}, this one reads up to {NEWEST_VERSION})")
        names, hashes = manifest["clips"], manifest.get("sha256", [])
        if names != [f"clip_{index:05d}.safetensors" for index in range(len(names))]:
            raise KeyError("clips")
        clips = tuple(zip(names, [*map(str, hashes), *[""] * len(names)], strict=False))
        return Manifest(version, dict(manifest["fingerprint"]), clips, tuple(map(dict, manifest.get("made_with", ()))))
    except FileNotFoundError:
        raise RunsError(NO_MANIFEST) from None
    except OSError as error:
        raise RunsError(f"{MANIFEST_NAME} cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunsError(f"{MANIFEST_NAME} is damaged") from error


def is_in_use(folder: Path) -> bool | None:
    """Whether a process holds the run; None where the disk has no locks."""
    try:
        with locked(folder, shared=True):
            return False
    except InUseError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None


@contextlib.contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the run, so that nobody starts to work on it.

    Args:
        shared: others that only look may hold it at the same time.
    Raises:
        InUseError: another process holds it.
        OSError: there is no lock file, or the disk has no locks.
    """
    with (folder / LOCK_NAME).open("r+b") as file:
        _lock(file, shared, folder.name)
        yield


def _lock(file: BinaryIO, shared: bool, name: str) -> None:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise InUseError(f"Run '{name}' is in use by another process. Wait for it to end, or cancel it.") from error


def _is_leftover(path: Path, *, manifest_is_read: bool) -> bool:
    return (
        path.name.endswith(TEMPORARY_SUFFIX)
        or PARTIAL_VIDEO.search(path.name) is not None
        or (manifest_is_read and bool(CLIP_NAME.fullmatch(path.name)))
    )


def _read_clip(index: int, path: Path, sha256: str) -> Clip:
    clip = Clip(index, path, sha256)
    try:
        facts = path.stat()
        clip = replace(clip, size_bytes=facts.st_size, changed=facts.st_mtime)
        num_frames, height, width, _ = _frames_shape(read_header(path))
    except FileNotFoundError:
        return replace(clip, problem="is missing")
    except HeaderError as error:
        return replace(clip, problem=f"is damaged ({error})")
    except OSError as error:
        return replace(clip, problem=f"cannot be read ({error.strerror})")
    return replace(clip, num_frames=num_frames, size_px=(width, height))


def _frames_shape(header: dict[str, Any]) -> list[int]:
    """[T, H, W, 3] of a clip file whose tensors are as they should be."""
    if missing := [name for name in NEEDED_TENSORS if name not in header]:
        raise HeaderError(f"no {', '.join(missing)}")
    for name, (dtype, num_axes) in TENSORS.items():
        if name in header and (header[name]["dtype"], len(header[name]["shape"])) != (dtype, num_axes):
            raise HeaderError(f"{name} are {header[name]['dtype']} {header[name]['shape']}")
    return header["frames"]["shape"]


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
