"""What differs between the inputs of a run and those it was begun with, in words."""

from collections.abc import Mapping

from .manifest import Fingerprint

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
