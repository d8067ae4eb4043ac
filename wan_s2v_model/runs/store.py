"""Keep what a run has finished, clip by clip, so that a crash costs one clip and not the night.

A run folder holds `manifest.json` (what decides the result, and the finished clips) and one safetensors file per clip. Each file is
written under a temporary name, flushed to the disk and renamed, and a clip counts only once the manifest names it: whatever stops the
process, the folder describes a run that ended after some whole clip.
"""

import contextlib
import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import torch
from filelock import Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .. import files
from ..untrusted import ComparedFiles
from .changes import (
    REDO,
    STOP,
    Notes,
    RedoError,
    RunStoreError,
    changes_of,
    changes_since,
    first_changed_clip,
    reported,
    require_unchanged,
    shown,
)
from .manifest import (
    CLIP_NAME,
    CLIP_TENSORS,
    FIRST_CLIP,
    IN_USE,
    LEFTOVER,
    LOCK_NAME,
    MANIFEST_NAME,
    TAUGHT_BY,
    Fingerprint,
    Manifest,
    ManifestError,
    NewerManifestError,
    Value,
    clip_file_problem,
    clip_name,
    read_manifest,
)

NO_NOTES = Notes()
CHANGED = "has changed since it was written"
DTYPES = {"F32": torch.float32, "U8": torch.uint8}
logger = logging.getLogger("wan_s2v")


class RunStore:
    """Folder of one run, held by one process at a time. Reading works after `close` too, writing does not."""

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        """Use `RunStore.open` or `RunStore.reading`."""
        self.folder = folder
        self.num_finished = 0
        self.shown = range(0)  # clips that the video in progress holds as they are stored; kept with the next clip
        self.step_cache: list[dict[str, Any]] = []  # what clips have taught; kept with the clip
        self._failure: BaseException | None = None
        self.fingerprint = fingerprint
        self._hashes: list[str] = []  # of the clips that the manifest lists
        self._made_with: list[dict[str, Any]] = []
        self._notes = NO_NOTES
        self._redone_from: int | None = None
        self._is_open = False
        self._lock: files.FolderLock | None = None
        self._compared = ComparedFiles()

    @classmethod
    def open(
        cls,
        folder: Path,
        fingerprint: Mapping[str, Value] = MappingProxyType({}),
        notes: Notes = NO_NOTES,
        redo_from: int | None = None,
        fixed: Collection[str] = (),
        if_changed: str = STOP,
    ) -> "RunStore":
        """Create the run folder, or continue the run in it.

        Args:
            folder: its name is the run's name in messages.
            fingerprint: everything that decides the result, by value or by hash; empty for a folder that is new and nobody comes back to.
            redo_from: forget this clip and all later ones; the rest of the run may then have another fingerprint. A redo that was begun
                with the same inputs and has not come to the last of the fingerprint's `clips` goes on instead.
            fixed: names that must not change while earlier clips are kept, such as the picture size.
            if_changed: REDO makes the clips from the first one that differs on anew, where the fingerprint differs.
            notes: what is compared or kept beside the fingerprint.
        Raises:
            RunChangedError: the fingerprint differs from that of the finished clips.
            RedoError: there is no clip `redo_from`, or one before it is missing or damaged; nothing was touched.
            RunStoreError: in use by another process, not readable, not writable, or of a newer version.
        """
        with reported(f"cannot open the run folder {folder}"):
            if redo_from and not folder.is_dir():
                raise RedoError(f"There is no run '{folder.name}' to redo. Set redo_from_clip to 0, or check run_name.")
            if folder.is_symlink():
                raise RunStoreError(f"run '{folder.name}' is a link to another folder, which is not written through: use another run name")
            if not folder.is_dir():
                folder.mkdir(parents=True)
                files.sync_folder(folder.parent)
            try:
                lock = files.hold_folder(folder / LOCK_NAME)
            except Timeout as error:
                raise RunStoreError(f"run '{folder.name}' {IN_USE}: wait for it to end, or use another run name") from error
        store = cls(folder, dict(fingerprint))
        store._is_open, store._lock = True, lock
        store._notes = notes
        try:
            if problem := files.write_problem(folder):
                raise RunStoreError(problem)
            store._load(redo_from, fixed, if_changed)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def reading(cls, folder: Path) -> "RunStore":
        """The clips that a run has by now, if any: to read them while another process may make more. Errors as in `open`."""
        manifest = _manifest_of(folder) or Manifest()
        store = cls(folder, manifest.fingerprint)
        store._hashes = list(manifest.hashes)
        store.num_finished = len(store._hashes)
        return store

    def write_clip(self, index: int, **tensors: Tensor | None) -> None:
        """Store the next clip, its tensors by the names and with the types of CLIP_TENSORS; when this returns it survives a power cut."""
        self._check_open()
        if index != self.num_finished:
            raise ValueError(f"clip {index + 1} of run '{self.name}' cannot be stored: clip {self.num_finished + 1} is the next one")
        checked = _clip_tensors(**tensors)
        path = self._clip_path(index)
        with reported(f"cannot store clip {index + 1} of run '{self.name}' in {self.folder}", "Put this right and run again to continue."):
            try:
                if len(self._hashes) > index:
                    self._list_clips(self._hashes[:index])  # clips after a damaged one are stale from here on
                data = save(checked)
                files.write_atomically(path, data)
                self._compared.note(path)
                self._note_versions(index)
                self._list_clips([*self._hashes, hashlib.sha256(data).hexdigest()])
            except BaseException as error:
                self._failure = error
                files.discard(path)
                raise
        self.num_finished = index + 1

    def raise_failure(self) -> None:
        """Raise RunStoreError if the last clip could not be stored: while one is written the next one is being made, in vain."""
        if self._failure is not None:
            raise RunStoreError(f"clip {self.num_finished + 1} of run '{self.name}' could not be stored") from self._failure

    def read_frames(self, index: int) -> Tensor:
        """Return the pictures of a finished clip, [T, H, W, 3] uint8."""
        return self._read(index, "frames")

    def read_latents(self, index: int) -> Tensor:
        """Return the latents of a finished clip, [16, F, h, w] float32."""
        return self._read_finite(index, "latents")

    def read_motion_latents(self, index: int) -> Tensor | None:
        """Return what the clip after this one continues from, [1, 16, 19, h, w] float32, or None if it was not stored."""
        return self._read_optional(index, "motion_latents")

    def read_step_inputs(self, index: int) -> Tensor:
        """Return what the later steps of each block of live video began with, [blocks, steps, 16, 3, h, w] float32."""
        return self._read(index, "step_inputs")

    def read_history(self, index: int) -> Tensor | None:
        """Return the newest frames behind a clip, [73, H, W, 3] float32, which early versions stored of short clips; else None."""
        return self._read_optional(index, "history")

    def drop_from(self, index: int) -> None:
        """Forget clip `index` and every later one; it is undone as a whole or not at all."""
        self._check_open()
        if index < 0:
            raise ValueError(f"redo must start at clip 1 or later, got {index + 1}")
        with reported(f"cannot drop clips of run '{self.name}' from {self.folder}"):
            self._list_clips(self._hashes[:index])
            self.num_finished = min(index, self.num_finished)
            for path in sorted(self.folder.iterdir(), reverse=True):
                if CLIP_NAME.fullmatch(path.name) and path.name >= clip_name(index):
                    files.remove(path)

    def close(self) -> None:
        """Let other processes have the run."""
        self._is_open = False
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of the file of each finished clip, "" for clips of early versions."""
        return tuple(self._hashes[: self.num_finished])

    def _load(self, redo_from: int | None, fixed: Collection[str], if_changed: str) -> None:
        """Learn what is there and what of it stays; nothing is touched before all of it may be."""
        with reported(f"cannot open the run folder {self.folder}"):
            manifest = _manifest_of(self.folder) or Manifest(version=None)
            changes = changes_since(manifest, self.fingerprint, self._notes)
            self._require_redoable(redo_from, manifest)
            if changes and redo_from is None and if_changed == REDO:
                redo_from = min(first_changed_clip(changes, fixed, manifest.by_clip, self._notes.by_clip), manifest.num_clips)
                logger.info("run '%s': its inputs have changed, it is made anew from clip %d on", self.name, redo_from + 1)
            require_unchanged(self.name, changes, redo_from, fixed, (manifest.words, self._notes.words))
            self._hashes = list(manifest.hashes)
            kept = self._kept_clips(redo_from, manifest, changes)
            if kept < manifest.num_clips:
                self._require_no_readers()
            self._made_with, self.num_finished = list(manifest.made_with), kept
            self.shown, self.step_cache = manifest.shown(kept), manifest.taught(kept, is_other=bool(changes))
            self._redone_from = manifest.redone_from if redo_from is None else redo_from
            if manifest.version is not None:
                self._remove_leftovers()
            if manifest.num_clips == 0:
                self._list_clips([])
            elif kept == redo_from:
                self.drop_from(redo_from)

    def _require_redoable(self, redo_from: int | None, manifest: Manifest) -> None:
        """Raise RedoError if there is no such clip; the first one of a redo that was cut off may be gone already."""
        if redo_from and redo_from >= manifest.num_clips and redo_from != manifest.redone_from:
            there = f"it has {manifest.num_clips}" if manifest.num_clips else "it has none yet"
            raise RedoError(
                f"run '{self.name}' has no clip {redo_from + 1} to redo: {there}. Set redo_from_clip to 0 to go on, or to another clip."
            )

    def _kept_clips(self, redo_from: int | None, manifest: Manifest, changes: Mapping[str, object]) -> int:
        """How many of the listed clips stay.

        Raises:
            RedoError: a clip before the redo is missing or damaged: it would be made with the inputs of the redo.
        """
        begin = manifest.redone_from if redo_from is None else redo_from
        if begin and (before := self._finished(min(begin, manifest.num_clips))[0]) < begin:
            raise RedoError(
                f"run '{self.name}' cannot be redone from clip {begin + 1}: clip {before + 1} is missing or damaged and would be made with "
                f"the inputs of the redo. Set redo_from_clip to {before + 1}, with the old inputs first if they should hold until then."
            )
        finished, problem = self._finished(manifest.num_clips)
        if redo_from is not None:
            return finished if self._has_begun(redo_from, manifest, changes, finished) else redo_from
        if problem:
            logger.warning("run '%s': clip %d %s; it and the clips after it will be made again", self.name, finished + 1, problem)
        return finished

    def _has_begun(self, redo_from: int, manifest: Manifest, changes: Mapping[str, object], finished: int) -> bool:
        """Whether this very redo was cut off: what it has made by then is kept."""
        is_same = manifest.redone_from == redo_from and not changes
        if not (is_same and all(map(self._is_as_written, range(redo_from, finished - 1)))):  # the last is compared already
            return False
        logger.info("run '%s': the redo from clip %d goes on: %d clips are finished", self.name, redo_from + 1, finished)
        return True

    def _require_no_readers(self) -> None:
        if files.has_readers(self.folder):
            raise RunStoreError(f"run '{self.name}' is being read by another process: wait for it to end, then queue again")

    def _remove_leftovers(self) -> None:
        for path in self.folder.iterdir():
            if LEFTOVER.fullmatch(path.name) and not files.is_held(path):
                files.discard(path)

    def _finished(self, num_listed: int) -> tuple[int, str | None]:
        """How many clips there are up to the first one that is missing or damaged, and what is wrong with that one.

        The next one continues from the last, which is compared with its hash.
        """
        problems = map(self._file_problem, range(num_listed))
        count, problem = next(((index, problem) for index, problem in enumerate(problems) if problem), (num_listed, None))
        while count and not self._is_as_written(count - 1):
            count, problem = count - 1, CHANGED
        return count, problem

    def _is_as_written(self, index: int) -> bool:
        with self._reading(index):
            return self._compared.is_as_written(self._clip_path(index), self._hashes[index])

    def _file_problem(self, index: int) -> str | None:
        with self._reading(index):
            return clip_file_problem(self._clip_path(index))

    def _reading(self, index: int) -> contextlib.AbstractContextManager[None]:
        return reported(f"clip {index + 1} of run '{self.name}' cannot be read now, and nothing was changed", "Mend it and queue again.")

    def _note_versions(self, index: int) -> None:
        """Remember with what the clips from here on are made, if that has changed."""
        before = {name: value for name, value in self._made_with[-1].items() if name != FIRST_CLIP} if self._made_with else {}
        if before == self._notes.versions:
            return
        if before:
            changes = ", ".join(f"{name} {shown(*change)}" for name, change in changes_of(before, dict(self._notes.versions)).items())
            logger.info("run '%s': other versions from clip %d on, so the last bits may differ: %s", self.name, index + 1, changes)
        self._made_with.append({FIRST_CLIP: index, **self._notes.versions})

    def _list_clips(self, hashes: list[str]) -> None:
        """Write the manifest with the finished clips, given by the hashes of their files."""
        self._made_with = [entry for entry in self._made_with if entry[FIRST_CLIP] < len(hashes)]
        is_done = len(hashes) >= int(self.fingerprint.get("clips") or 0)
        redone_from = None if is_done else self._redone_from
        self.shown = self.shown[: max(0, len(hashes) - self.shown.start)]
        manifest = Manifest(
            fingerprint=self.fingerprint,
            hashes=tuple(hashes),
            made_with=tuple(self._made_with),
            redone_from=redone_from,
            in_progress=(self.shown.start, self.shown.stop) if self.shown and not is_done else None,
            words=self._notes.words,
            by_clip=self._notes.by_clip,
            step_cache=tuple(entry for entry in self.step_cache if entry[TAUGHT_BY] < len(hashes)),
        )
        files.write_atomically(self.folder / MANIFEST_NAME, manifest.encode())
        self._hashes = hashes

    def _read(self, index: int, key: str) -> Tensor:
        with self._clip_file(index) as file:
            return file.get_tensor(key).clone()  # the tensor itself is a map of the file, which may be replaced

    def _read_finite(self, index: int, key: str) -> Tensor:
        tensor = self._read(index, key)
        if not torch.isfinite(tensor).all():
            raise self._damage(index, f"is damaged ({key} hold NaN or infinite numbers)")
        return tensor

    def _read_optional(self, index: int, key: str) -> Tensor | None:
        with self._clip_file(index) as file:
            stored = key in set(file.keys())
        return self._read_finite(index, key) if stored else None

    @contextlib.contextmanager
    def _clip_file(self, index: int) -> Iterator[safe_open]:
        if not 0 <= index < self.num_finished:
            raise IndexError(f"run '{self.name}' has no clip {index + 1}: {self.num_finished} are finished")
        with reported(f"cannot read clip {index + 1} of run '{self.name}' in {self.folder}"):
            path = self._clip_path(index)
            if not self._compared.knows(path) and (problem := self._file_problem(index) or (not self._is_as_written(index) and CHANGED)):
                raise self._damage(index, problem)
            with safe_open(path, framework="pt") as file:
                yield file

    def _damage(self, index: int, problem: str) -> RunStoreError:
        again = f"Queue with redo_from_clip {index + 1} to make it and the clips behind it anew."
        return RunStoreError(f"cannot read clip {index + 1} of run '{self.name}' in {self.folder}: it {problem}. {again}")

    def _clip_path(self, index: int) -> Path:
        return self.folder / clip_name(index)

    def _check_open(self) -> None:
        if not self._is_open:
            raise ValueError(f"run '{self.name}' is closed: open it again to write")


def _manifest_of(folder: Path) -> Manifest | None:
    """The manifest, None in a folder that holds no run yet."""
    try:
        return read_manifest(folder)
    except FileNotFoundError:
        if folder.is_dir() and any(CLIP_NAME.fullmatch(path.name) for path in folder.iterdir()):
            raise RunStoreError(f"{folder} holds clips but no {MANIFEST_NAME}: use another run name, or delete the folder") from None
        return None
    except NewerManifestError as error:
        raise RunStoreError(f"run '{folder.name}' {error}: update the pack or use another run name") from error
    except ManifestError as error:
        raise RunStoreError(f"{folder / MANIFEST_NAME} {error}: use another run name, or delete the folder {folder}") from error
    except OSError as error:
        raise RunStoreError(f"{folder / MANIFEST_NAME} cannot be read: {error.strerror or error}") from error


def _clip_tensors(**tensors: Tensor | None) -> dict[str, Tensor]:
    given = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in given.items():
        dtype, num_axes = DTYPES[CLIP_TENSORS[name].dtype], CLIP_TENSORS[name].num_axes
        if tensor.dtype != dtype or tensor.ndim != num_axes:
            raise ValueError(f"{name} of a clip must be {dtype} with {num_axes} axes, got {tensor.dtype} {tuple(tensor.shape)}")
    return given
