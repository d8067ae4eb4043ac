"""What differs between the inputs of a run and those it was begun with, in words."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from .manifest import Fingerprint, Value

SHOWN_CHARACTERS = 80  # of a changed value in a message


class RunChangedError(ValueError):
    """The run was made with other inputs; `changes` maps each changed name to (old, new)."""

    def __init__(self, message: str, changes: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.changes = dict(changes)


class RedoError(ValueError):
    """The run has nothing to redo there, or lacks clips before it that can no longer be made as they were."""


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


def changes_of(
    old: Fingerprint, new: Fingerprint, earlier: Mapping[str, Callable[[], Value]] = MappingProxyType({})
) -> dict[str, tuple[object, object]]:
    """Old and new value of every name whose value or kind differs, unless the old one is what an earlier version wrote for the new one."""
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in names}
    changes = {name: (a, b) for name, (a, b) in pairs.items() if a != b or isinstance(a, bool) != isinstance(b, bool)}
    return {name: change for name, change in changes.items() if name not in earlier or change[0] != earlier[name]()}


def require_unchanged(run_name: str, changes: Mapping[str, tuple[object, object]], redo_from: int | None, fixed: Collection[str]) -> None:
    """Raise RunChangedError for inputs that must not change: all, or in a redo those that are fixed unless it is one of the whole run."""
    if redo_from is not None:
        changes = {} if redo_from == 0 else {name: change for name, change in changes.items() if name in fixed}
    if not changes:
        return
    lines = "\n".join(f"  {name}: {shown(*change)}" for name, change in changes.items())
    ways = "redo it from clip 0" if redo_from else "redo it from the first clip that should be made anew"
    raise RunChangedError(
        f"run '{run_name}' was made with other inputs:\n{lines}\n"
        f"Set these back to continue the run, or give another run name to keep both, or {ways}.",
        changes,
    )


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
