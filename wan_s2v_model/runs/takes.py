"""What ComfyUI does not know of a named run: that its folder may change between two queues, and that a list makes one take each."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .manifest import MANIFEST_NAME

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
    """Names for the runs that a node makes of a list of inputs under one name."""

    def __init__(self) -> None:
        self._node: list[str] = []
        self._names: list[str] = []

    def name(self, run_name: str, place: tuple[str, str, int] | None) -> str:
        """The name itself for the first input of a list that has it, name_2 for the second and so on; the same in every queue.

        Args:
            place: where ComfyUI is: prompt, node and the number of the input in the list, from 0; None where it does not say.
        """
        if place is None or not run_name:
            return run_name
        *node, item = place
        if item == 0 or self._node != node:
            self._node, self._names = node, []
        self._names.append(run_name)
        number = self._names.count(run_name)
        if number == 1:
            return run_name
        name = f"{run_name}_{number}"
        logger.info("run '%s': input %d of a list is kept as run '%s'", run_name, item + 1, name)
        return name


def _state_of(folder: Path) -> State:
    try:
        facts = (folder / MANIFEST_NAME).stat()
    except OSError:
        return ()
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


handed_on, takes = HandedOn(), Takes()
