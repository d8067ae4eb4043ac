"""Says what a weights file is from its header alone: complete or cut off, which model, which type."""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .files import PARTS

try:
    from ...wan_s2v_model.checkpoints import file_format, identify, shards
    from ...wan_s2v_model.untrusted import NotPlainError, open_plain, read_json
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.checkpoints import file_format, identify, shards
    from wan_s2v_model.untrusted import NotPlainError, open_plain, read_json

SAFETENSORS, INDEX_SUFFIX = file_format.SAFETENSORS, file_format.INDEX_SUFFIX
GGUF = "GGUF"
GGUF_SUFFIX = ".gguf"
WEIGHT_SUFFIXES = (*SAFETENSORS, ".pth", ".pt", ".bin", ".ckpt", GGUF_SUFFIX)
AUDIO_LAYER = r"encoder\.layers"
KINDS = {
    "model": identify.S2V,
    "text": identify.UMT5,
    "audio": identify.WAV2VEC2,
    "vae": identify.WAN_VAE,
    "lora": identify.LORA_FILE,
    "live": identify.LORA_FILE,
}
TYPES = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "BF16": "bf16", "F16": "fp16", "F32": "fp32", "U8": "quantised", "I8": "int8"}

DOWNLOAD = "{download}"  # in an advice: the command that fetches the file
REPLACE = f"Delete it, then: {DOWNLOAD}"
LEAVE = "Leave it; pick another file in the loader."

Header = dict[str, Any]


class HeaderError(ValueError):
    """Why a file cannot be used, in words.

    Attributes:
        advice: what to do; DOWNLOAD in it stands for a command.
        mendable: who follows the advice can use the file, or has another one in its place.
    """

    def __init__(self, message: str, advice: str = REPLACE, *, mendable: bool = True) -> None:
        super().__init__(message)
        self.advice = advice
        self.mendable = mendable


class OtherModelError(HeaderError):
    """The file is fine, but not for us; says what it is."""

    def __init__(self, message: str, advice: str = LEAVE) -> None:
        super().__init__(message, advice, mendable=False)


def find_candidates(folders: Sequence[Path], pattern: str) -> list[tuple[str, Path]]:
    """(name below its folder, path) of all weights files whose name matches; the index stands for its shards."""
    found = []
    for folder in folders:
        for path in sorted(_files(folder)):
            name = path.relative_to(folder).as_posix()
            is_weights = name.lower().endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX)) and not identify.SHARD.fullmatch(name)
            if is_weights and re.search(pattern, name, re.IGNORECASE) and path.is_file():
                found.append((name, path))
    return found


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, in linked folders too, as ComfyUI finds them; each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        where = os.path.realpath(place)
        if where in seen:
            folders.clear()
            continue
        seen.add(where)
        yield from (Path(place, name) for name in names)


def describe(path: Path, part: str) -> tuple[int, str]:
    """Size in bytes and kind in words of a file of one part.

    Raises:
        HeaderError: if it is damaged or incomplete.
        OtherModelError: if it is not for this part.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _describe_index(path, part)
    size = path.stat().st_size
    suffix = path.suffix.lower()
    if suffix == GGUF_SUFFIX and part != "model":
        raise OtherModelError("it is a GGUF file")
    if suffix == GGUF_SUFFIX:
        return size, GGUF
    _require_weights(path)
    if suffix in SAFETENSORS:
        return size, _kind(read_header(path), path.parent, part)
    if part == "text":
        _require_tokenizer(path.parent)  # PyTorch files of umT5 are the official one
    return size, "PyTorch file"


def _require_weights(path: Path) -> None:
    try:
        problem = file_format.problem_of(path)
    except file_format.FORMAT_ERRORS as error:
        raise HeaderError("its contents cannot be read") from error
    except NotPlainError as error:
        raise HeaderError("it is a folder, a pipe or a device") from error
    if problem is not None:
        words, advice = problem
        raise HeaderError(words) if advice == file_format.AGAIN else HeaderError(words, advice, mendable=False)


def _describe_index(path: Path, part: str) -> tuple[int, str]:
    files = _shards(path)
    if missing := [shard.name for shard in files if not shard.is_file()]:
        raise HeaderError(f"{len(missing)} of its {len(files)} shards are missing ({', '.join(missing[:2])})", DOWNLOAD)
    header: Header = {}
    for shard in files:
        header |= _shard_header(shard)
    return sum(shard.stat().st_size for shard in files), f"{_kind(header, path.parent, part)}, {len(files)} shards"


def _shards(index: Path) -> list[Path]:
    try:
        return [index.parent / name for name in shards.shard_names(index)]
    except (shards.OutsideError, shards.NoShardsError) as error:
        raise HeaderError(str(error), DOWNLOAD) from error
    except OSError as error:
        raise HeaderError(f"it cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise HeaderError("it is no index of a sharded checkpoint", DOWNLOAD) from error


def _shard_header(path: Path) -> Header:
    try:
        _require_weights(path)
        return read_header(path)
    except HeaderError as error:
        advice = error.advice.replace("Delete it", "Delete that shard")
        raise HeaderError(f"of its shards, {path.name} fails: {error}", advice, mendable=error.mendable) from error


def read_header(path: Path) -> Header:
    """Tensor name -> {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises:
        HeaderError: if the file is damaged or shorter than its header says.
    """
    with open_plain(path, through_links=True) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, file_format.LONGEST_HEADER):
            raise HeaderError("cut off, or no safetensors file")
        try:
            header = read_json(stream.read(length))
            header.pop("__metadata__", None)
        except (ValueError, AttributeError, TypeError) as error:
            raise HeaderError("no safetensors file") from error
    if not all(map(_is_tensor, header.values())):
        raise HeaderError("its header is damaged")
    end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if end > size:
        raise HeaderError(f"cut off: {size:,} of {end:,} bytes")
    return header


def _is_tensor(entry: Any) -> bool:
    match entry:
        case {"dtype": str(), "shape": [*shape], "data_offsets": [begin, end]}:
            return all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    return False


def _kind(header: Mapping[str, Any], folder: Path, part: str) -> str:
    if not header:
        raise HeaderError("it holds no tensors")
    found = identify.identify({name: tensor["shape"] for name, tensor in header.items()})
    is_lora = KINDS[part] is identify.LORA_FILE  # which have more names than are known here
    is_other = isinstance(found, identify.Kind) if is_lora else found is not KINDS[part]
    if is_other:
        words = found.words if isinstance(found, identify.Kind) else found
        raise OtherModelError(f"it is {words.partition(';')[0]}", _way_to_its_folder(found))
    with _refusals():
        identify.require_known_quantisation(header, "it")
        bare = identify.unwrap(header, "it")
        if part == "audio":
            identify.require_audio_layers(identify.count_layers(bare, AUDIO_LAYER), "it")
    if part == "text" and identify.TOKENIZER not in bare:
        _require_tokenizer(folder)
    return _stored_type(header)


def _way_to_its_folder(found: identify.Kind | str) -> str:
    return next((f"Move it to models/{PARTS[part].folder}." for part, kind in KINDS.items() if kind == found), LEAVE)


@contextmanager
def _refusals() -> Iterator[None]:
    """Around checks of the loaders: the file is sound, and they refuse it."""
    try:
        yield
    except file_format.CheckpointError as error:
        raise OtherModelError(str(error)) from error


def _require_tokenizer(folder: Path) -> None:
    try:
        identify.find_tokenizer(folder, "it")
    except file_format.CheckpointError as error:
        raise HeaderError(str(error), DOWNLOAD) from error


def _stored_type(header: Mapping[str, Any]) -> str:
    sizes: Counter[str] = Counter()
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        sizes[tensor["dtype"]] += 0 if name == identify.TOKENIZER else end - begin
    main = sizes.most_common(1)[0][0]
    return TYPES.get(main, main.lower())
