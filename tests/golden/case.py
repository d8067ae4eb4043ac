"""One stored case of the reference, and the comparison of its tensors with what the pack computes."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

EXACT = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the report; without a tolerance it is information that cannot fail."""

    case: str
    tensor: str
    error: float
    tolerance: float | None
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.tolerance is None or self.error <= self.tolerance  # NaN fails

    @property
    def kind(self) -> str:
        return self.case.partition("/")[0]


@dataclass(frozen=True)
class Measured:
    """What the pack computed for a stored tensor, and how far it may be off (maximum absolute difference)."""

    value: Tensor
    tolerance: float


def failure(case: str, tensor: str, note: str) -> Row:
    return Row(case, tensor, math.inf, EXACT, note)


class Case:
    """A safetensors file. Every tensor must be either taken as an input or compared; anything else is an error.

    Attributes:
        root: the folder to which `model_file`, `vae_file` and `wav2vec_dir` are relative. name: path of the file in it.
        models: where the tiny models of live cases lie.
        metadata: the decoded settings of the case.
    """

    def __init__(self, root: Path, path: Path, models: Path | None = None):
        self.root = root
        self.models = models or root
        self.name = path.relative_to(root).with_suffix("").as_posix()
        self.metadata = read_metadata(path)
        self.tensors = load_file(path)
        self._inputs: set[str] = set()

    def input(self, name: str) -> Tensor:
        """A stored tensor that is given to the pack instead of being compared."""
        if name not in self.tensors:
            raise LookupError(f"the input {name} is missing")
        self._inputs.add(name)
        return self.tensors[name]

    def optional_input(self, name: str) -> Tensor | None:
        return self.input(name) if name in self.tensors else None

    def setting(self, name: str, default: Any = None) -> Any:
        """A value of the metadata; without a default it must be there."""
        value = self.metadata.get(name, default)
        if value is None and name not in self.metadata:
            raise LookupError(f"the metadata {name} is missing")
        return value

    def path(self, name: str) -> Path:
        """A file or folder that the metadata names."""
        return self.root / self.setting(name)

    def compare(self, measured: Mapping[str, Measured]) -> Iterator[Row]:
        """One row for every stored tensor that is not an input."""
        compared = [name for name in self.tensors if name not in self._inputs]
        if not compared:
            yield failure(self.name, "-", "nothing to compare in this file")
        for name in sorted(compared):
            if name in measured:
                error, note = difference(measured[name].value, self.tensors[name])
                yield Row(self.name, name, error, measured[name].tolerance, note)
            else:
                yield failure(self.name, name, "unknown tensor")


def difference(actual: Tensor, expected: Tensor) -> tuple[float, str]:
    """Maximum absolute difference (infinite for another shape, NaN if either holds NaN), and a remark."""
    if actual.shape != expected.shape:
        return math.inf, f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if actual.numel() == 0:
        return 0.0, ""
    return (actual.detach().to(torch.float64) - expected.to(torch.float64)).abs().max().item(), ""


def compare_column(case: str, column: str, pairs: Mapping[str, tuple[Any, Any]], tolerance: float = EXACT) -> Row:
    """One row for a column of a table; pairs hold (ours, theirs) by line, numbers or lists of numbers."""
    errors = {}
    for line, (ours, theirs) in pairs.items():
        errors[line], _ = difference(torch.as_tensor(ours, dtype=torch.float64), torch.as_tensor(theirs, dtype=torch.float64))
    worst = max(errors, key=lambda line: math.inf if math.isnan(errors[line]) else errors[line])
    note = "" if errors[worst] <= tolerance else f"{worst}: {pairs[worst][0]} instead of {pairs[worst][1]}"
    return Row(case, column, errors[worst], tolerance, note)


def read_metadata(path: Path) -> dict[str, Any]:
    """The settings in a safetensors file; each is JSON or plain text."""
    with safe_open(path, "pt") as file:
        return {key: _decode(value) for key, value in (file.metadata() or {}).items()}


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
