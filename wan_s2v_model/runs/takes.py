"""What ComfyUI does not know of a named run: that its folder may change between two queues, and that other inputs make another take."""

import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from .changes import Notes, changes_since, told
from .manifest import MANIFEST_NAME, Fingerprint, ManifestError, read_manifest

State = tuple[int, ...]  # of a manifest
logger = logging.getLogger("wan_s2v")


class HandedOn:
    """The runs whose clips ComfyUI remembers as the output of a node, with the state of their folders."""

    def __init__(self) -> None:
        self._asked: dict[str, str] = {}  # the inputs for which ComfyUI last asked, by the name of the run
        self._states: dict[str, dict[Path, State]] = {}
        self._counts: dict[str, int] = {}

    def count(self, run_name: str, inputs: Mapping[str, Any]) -> int:
        """How often the folders of a run were found deleted or changed by somebody else; ComfyUI makes the output again where it grows.

        Args:
            inputs: of the node, as far as they are known before it runs.
        """
        key = repr((run_name, sorted(inputs.items(), key=lambda item: item[0])))
        self._asked[run_name] = key
        states = self._states.get(key, {})
        if any(_state_of(folder) != state for folder, state in states.items()):
            self._counts[key] = self._counts.get(key, 0) + 1
            del self._states[key]
        return self._counts.get(key, 0)

    def note(self, run_name: str, folder: Path) -> None:
        """The clips in a folder are handed on now."""
        key = self._asked.get(run_name, run_name)
        self._states.setdefault(key, {})[folder] = _state_of(folder)


class Takes:
    """Names for the runs that a node makes under one name: of a list of inputs, or where the inputs have changed."""

    def __init__(self) -> None:
        self._node: list[str] = []
        self._names: list[str] = []

    def name(self, run_name: str, place: tuple[str, str, int] | None, fits: Callable[[str], bool] = lambda name: True) -> str:
        """The first of the name itself, name_2, name_3 and so on that no other input of the list has, and that fits.

        Args:
            place: where ComfyUI is: prompt, node and the number of the input in the list, from 0; None where it does not say.
            fits: whether the run of a name may be begun or continued with these inputs.
        """
        if not run_name:
            return run_name
        *node, item = place or ("", "", 0)
        if item == 0 or self._node != node:
            self._node, self._names = node, []
        names = (run_name if number == 1 else f"{run_name}_{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in self._names and fits(name))
        self._names.append(name)
        if item:
            logger.info("run '%s': input %d of a list is kept as run '%s'", run_name, item + 1, name)
        return name


class LookAtRuns:
    """Whether runs may go on with some inputs; remembers how the last one that may not differs.

    Args:
        runs: the folder of all runs.
    """

    def __init__(self, runs: Path, fingerprint: Fingerprint, notes: Notes) -> None:
        self._runs, self._fingerprint = runs, fingerprint
        self._notes = replace(notes, earlier={name: cache(text) for name, text in notes.earlier.items()})
        self.differs = ""

    def take(self, name: str) -> str:
        """What to say beside a run that is not the one that was asked for: a line of its own, or nothing."""
        if not self.differs:
            return ""
        logger.info("%s; this take is kept as run '%s'", self.differs, name)
        return f"\nkept as run '{name}'; {self.differs}"

    def may_go_on(self, name: str) -> bool:
        """Whether there is nothing yet, or a run of these inputs; True, too, where that cannot be read now: opening the run says so."""
        try:
            manifest = read_manifest(self._runs / name)
        except OSError:
            return True
        except ManifestError as error:
            self.differs = f"run '{name}' {error}"
            return False
        changes = changes_since(manifest, self._fingerprint, self._notes)
        if changes:
            self.differs = f"run '{name}' has other inputs: {'; '.join(told(changes, manifest.words, self._notes.words))}"
        return not changes


def _state_of(folder: Path) -> State:
    try:
        facts = (folder / MANIFEST_NAME).stat()
    except OSError:
        return ()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


handed_on, takes = HandedOn(), Takes()
