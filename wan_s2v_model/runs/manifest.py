"""What differs between the inputs of a run and those it was begun with, in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SHOWN_CHARACTERS = 80  # of a changed value in a message
Value = str | int | float | bool | None
Fingerprint = dict[str, Value]
FORMAT = "wan_s2v_run"
FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
LOCK_NAME = "run.lock"
FIRST_CLIP = "from_clip"
LIVE_VIDEO_NAME = "in_progress.mp4"


class RunChangedError(ValueError):
    """The run was made with other inputs; `changes` maps each changed name to (old, new)."""

    def __init__(self, message: str, changes: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.changes = dict(changes)


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


def changes_of(old: Fingerprint, new: Fingerprint) -> dict[str, tuple[object, object]]:
    """Old and new value of every name whose value or kind differs."""
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in names}
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b or isinstance(a, bool) != isinstance(b, bool)}


def shown(old: object, new: object) -> str:
    """Write "old -> new", long texts cut to the part where they begin to differ."""
    texts = [repr(old), repr(new)]
    if max(map(len, texts)) > SHOWN_CHARACTERS:
        same = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
        texts = [_excerpt(text, max(0, same - SHOWN_CHARACTERS // 4)) for text in texts]
    return " -> ".join(texts)


def _excerpt(text: str, start: int) -> str:
    end = start + SHOWN_CHARACTERS
    return ("..." if start else "") + text[start:end] + ("..." if end < len(text) else "")


class RunStoreError(OSError):
    """The run folder cannot be used or written; `errno` is that of the cause where there is one."""


class _Manifest(NamedTuple):
    fingerprint: Fingerprint
    num_clips: int
    hashes: list[str]  # SHA-256 of each clip's file, "" for clips of early versions
    made_with: list[dict[str, Any]]  # versions of programs, each with the first clip made with them
    redone_from: int | None  # the first clip of a redo that is not done yet


def _clip_name(index: int) -> str:
    return f"clip_{index:05d}.safetensors"


def _clip_names(count: int) -> list[str]:
    return [_clip_name(index) for index in range(count)]


def _read_manifest(folder: Path) -> _Manifest | None:
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT or not isinstance(manifest["version"], int):
            raise KeyError(FORMAT)
        if manifest["version"] > FORMAT_VERSION:
            raise RunStoreError(
                f"run '{folder.name}' was made by a newer version of this node pack (run format {manifest['version']}, this one reads "
                f"up to {FORMAT_VERSION}): update the pack or use another run name"
            )
        if manifest["clips"] != _clip_names(len(manifest["clips"])):
            raise KeyError("clips")
        made_with = [dict(entry) for entry in manifest.get("made_with", []) if entry[FIRST_CLIP] >= 0]
        num_clips = len(manifest["clips"])
        hashes = [*map(str, manifest.get("sha256", [])), *[""] * num_clips][:num_clips]
        return _Manifest(dict(manifest["fingerprint"]), num_clips, hashes, made_with, manifest.get("redone_from"))
    except FileNotFoundError:
        if any(folder.glob("clip_*.safetensors")):
            raise RunStoreError(f"{folder} holds clips but no {MANIFEST_NAME}: use another run name, or delete the folder") from None
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise RunStoreError(f"{path} is damaged or no run manifest: use another run name, or delete the folder {folder}") from error
