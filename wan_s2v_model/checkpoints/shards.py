"""Models in several files: the index that names them, and the folder that stands for them."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from ..untrusted import MOST_JSON_BYTES, cut, plain_name, read_json, read_plain
from .file_format import INDEX_SUFFIX, CheckpointError
from .identify import SHARD

MAIN_FILES = ("*" + INDEX_SUFFIX, "model.safetensors", "pytorch_model.bin")  # stand for their folder; the best first


def collapse_shards(names: Sequence[str]) -> list[str]:
    """Replace the shards of each sharded checkpoint by the name of its index file, which stands for all of them."""
    return sorted({SHARD.sub(r"\1" + INDEX_SUFFIX, name) for name in names})


def with_folders(files: Sequence[str]) -> dict[str, str]:
    """What a loader offers, and the file that each choice stands for: every file, and every folder that holds one model.

    Choices have forward slashes, so that a graph that was saved on Windows finds its files elsewhere, and the other way round.

    Args:
        files: paths below the models folder.
    """
    choices = with_slashes(files)
    for pattern in reversed(MAIN_FILES):
        found = [path for path in map(PurePath, files) if path.parent.name and path.match(pattern)]
        folders = [path.parent for path in found]
        choices |= {path.parent.as_posix(): str(path) for path in found if folders.count(path.parent) == 1}
    return dict(sorted(choices.items()))


def with_slashes(files: Sequence[str]) -> dict[str, str]:
    """Each file under its name with forward slashes."""
    return {PurePath(name).as_posix(): name for name in files}


def shard_files(index: Path) -> list[Path]:
    """The shards that an index file lists.

    Raises:
        CheckpointError: if the index cannot be read, or a shard is missing or does not lie beside the index.
    """
    try:
        names = shard_names(index)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) if isinstance(error, OutsideError) else "it lists no shards"
        raise CheckpointError(f"{index.name} is not the index of a sharded checkpoint: {reason}. Download the folder again.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent.name}: {len(missing)} of {len(names)} shards are missing ({cut(', '.join(missing[:3]))}). Download them."
        )
    return [index.parent / name for name in names]


class NoShardsError(ValueError):
    """An index names no file."""


class OutsideError(ValueError):
    """An index names a file that does not lie beside it."""


def shard_names(index: Path) -> list[str]:
    """The names of the shards that an index file lists, each beside the index.

    Raises:
        OutsideError: one is a path. OSError: the index cannot be read.
        NoShardsError: there are none. ValueError, KeyError, AttributeError, TypeError: it is no index.
    """
    stated = set(read_json(read_plain(index, MOST_JSON_BYTES, through_links=True))["weight_map"].values())
    if not all(isinstance(name, str) for name in stated):
        raise TypeError("a shard is named by a text")
    names = sorted(name for name in map(plain_name, stated) if name is not None)
    if len(names) < len(stated):
        raise OutsideError("it names shards by a path, and a shard lies beside its index")
    if not names:
        raise NoShardsError("it lists no shards")
    return names
