"""The file that is converted: which tensors it holds, which of them are packed, and how one after the other is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..models.headers import HeaderError, read_header

try:
    from ...wan_s2v_model.checkpoints import file_format, identify, s2v, shards
    from ...wan_s2v_model.untrusted import MOST_JSON_BYTES, read_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.checkpoints import file_format, identify, s2v, shards
    from wan_s2v_model.untrusted import MOST_JSON_BYTES, read_plain

PACKED_IN = ("blocks.", "audio_injector.injector.")  # nearly all of the work and 94 % of the weights; norms in there are no matrices
SIZE_OF = {"F32": 4, "F16": 2, "BF16": 2}  # bytes, of the types that a plain file has


class SourceError(ValueError):
    """The file cannot be converted: what is wrong, and what to do."""


@dataclass(frozen=True)
class Entry:
    """A tensor of the source.

    Attributes:
        name: that the model gives it. path, stored_name: where it lies. dtype: as safetensors names it.
    """

    name: str
    path: Path
    stored_name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * SIZE_OF[self.dtype]

    @property
    def is_packed(self) -> bool:
        """Whether it is one of the large matrices."""
        return self.name.startswith(PACKED_IN) and self.name.endswith(".weight") and len(self.shape) == 2


@dataclass(frozen=True)
class Source:
    """A Wan S2V transformer in 16 or 32 bits.

    Attributes:
        metadata: of the new file.
    """

    entries: Sequence[Entry]
    metadata: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Give a function that reads the tensor of an entry; the files are mapped, not loaded."""
        with ExitStack() as files:
            opened = {path: files.enter_context(safe_open(path, framework="pt")) for path in {entry.path for entry in self.entries}}
            yield lambda entry: opened[entry.path].get_tensor(entry.stored_name)


def open_source(path: Path) -> Source:
    """Read the headers of a file, or of all shards of an index.

    Raises:
        SourceError: if it is no complete Wan S2V transformer in 16 or 32 bits. OSError: it cannot be read.
    """
    if not path.is_file():
        raise SourceError(f"There is no file {path}. Give the path of a bf16 or fp16 file, for example in models/diffusion_models.")
    try:
        files = shards.shard_files(path) if path.name.endswith(file_format.INDEX_SUFFIX) else [path]
        stored = {name: (file, entry) for file in files for name, entry in _header(file).items()}
        identify.require(identify.S2V, {name: tuple(entry["shape"]) for name, (_, entry) in stored.items()}, path.name)
        identify.require_known_quantisation(stored, path.name)
        names = {name: name for name in stored}
        bare = identify.unwrap(names, path.name)
        entries = [_entry(name, stored_name, *stored[stored_name]) for name, stored_name in sorted(bare.items())]
        _require_plain(entries, path)
        metadata, shapes = _metadata(path, files), {entry.name: entry.shape for entry in entries}
        s2v.check_shapes(shapes, s2v.infer_config(shapes, metadata, file_name=path.name), path.name)
    except file_format.CheckpointError as error:
        raise SourceError(str(error)) from error
    return Source(entries, metadata)


def _header(path: Path) -> Mapping[str, Any]:
    problem = file_format.problem_of(path)
    if problem is None and path.suffix.lower() not in file_format.SAFETENSORS:
        problem = "it is a PyTorch file", "Convert the .safetensors version."
    if problem is not None:
        raise SourceError(f"{path.name} cannot be converted: {problem[0]}. {problem[1]}")
    try:
        return read_header(path)
    except HeaderError as error:
        raise SourceError(f"{path.name} is damaged: {error}. {file_format.AGAIN}") from error


def _entry(name: str, stored_name: str, path: Path, entry: Mapping[str, Any]) -> Entry:
    return Entry(name, path, stored_name, entry["dtype"], tuple(entry["shape"]))


def _require_plain(entries: Sequence[Entry], path: Path) -> None:
    other = [entry for entry in entries if entry.dtype not in SIZE_OF]
    if other:
        raise SourceError(
            f"{path.name} is packed already: {len(other)} tensors, such as {other[0].name}, are {other[0].dtype}. "
            "Convert the bf16 or fp16 file: what a format has rounded away does not come back."
        )


def _metadata(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """The description of the file, or of a folder of shards its config.json as our loader and ComfyUI read it."""
    if files == [path]:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    config = path.parent / "config.json"
    try:
        text = read_plain(config, MOST_JSON_BYTES, through_links=True).decode("utf-8", errors="replace")
    except FileNotFoundError:
        text = "{}"
    except OSError as error:
        raise SourceError(f"{config} cannot be read: {error.strerror}. Get it again.") from error
    return {"config": f'{{"transformer": {text}}}'}
