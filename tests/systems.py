"""What tests need of the system they run on, and a Python that knows this checkout wherever it is started."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def can_link() -> bool:
    """Whether links can be made: Windows wants a right for it, and under Wine nothing comes of them."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, "link")
        try:
            link.symlink_to(folder, target_is_directory=True)
        except OSError:
            return False
        return link.is_symlink()


LOCK_THAT_STAYS = [] if sys.platform == "win32" else ["run.lock"]  # there filelock deletes it when it is released
needs_links = pytest.mark.skipif(not can_link(), reason="no links can be made here: no right to on Windows, or Wine")


def words_for(action: Callable[[], object]) -> str:
    """How this system calls what is wrong with an action that it refuses."""
    try:
        action()
    except OSError as error:
        return str(error.strerror)
    raise AssertionError("it was not refused")


def from_checkout(code: str) -> list[str]:
    """The command for code that imports from this checkout; a portable Python looks neither into its working folder nor at PYTHONPATH."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
