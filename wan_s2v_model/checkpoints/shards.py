"""Models in several files: the index that names them, and the folder that stands for them."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePath

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
        CheckpointError: if the index cannot be read or a shard is missing.
    """
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (index.parent / name).is_file()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it lists no shards"
        raise CheckpointError(f"{index.name} is not the index of a sharded checkpoint: {reason}. Download the folder again.") from error
    if missing:
        raise CheckpointError(
            f"{index.parent.name}: {len(missing)} of {len(names)} shards are missing ({', '.join(missing[:3])}). Download them."
        )
    return [index.parent / name for name in names]
