"""Says what a weights file is from its header alone: complete or cut off, which model, which type."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from ..wan_s2v_model.identify import S2V, UMT5, WAN_VAE, WAV2VEC2, Kind, identify
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.identify import S2V, UMT5, WAN_VAE, WAV2VEC2, Kind, identify

WEIGHT_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".bin", ".ckpt")
INDEX_SUFFIX = ".safetensors.index.json"
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
LONGEST_HEADER_BYTES = 100_000_000
KINDS = {"model": S2V, "text": UMT5, "audio": WAV2VEC2, "vae": WAN_VAE}
TOKENIZER = "spiece_model"  # lies in the text encoder's file as if it were a tensor
TYPES = {"F8_E4M3": "fp8", "F8_E5M2": "fp8", "BF16": "bf16", "F16": "fp16", "F32": "fp32", "U8": "quantised", "I8": "int8"}

Header = dict[str, Any]


class HeaderError(ValueError):
    """Why a file cannot be used, in words."""


class OtherModelError(HeaderError):
    """The file is fine, but not for us; says what it is."""


def find_candidates(folders: Sequence[Path], pattern: str) -> list[tuple[str, Path]]:
    """(name below its folder, path) of all weights files whose name matches; the index stands for its shards."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            name = path.relative_to(folder).as_posix()
            is_weights = name.endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX)) and not SHARD.search(name)
            if is_weights and re.search(pattern, name, re.IGNORECASE) and path.is_file():
                found.append((name, path))
    return found


def describe(path: Path, part: str) -> tuple[int, str]:
    """Size in bytes and kind in words of a file of one part.

    Raises:
        HeaderError: if it is damaged or incomplete.
        OtherModelError: if it is not for this part.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return _describe_index(path, part)
    size = path.stat().st_size
    if path.suffix not in (".safetensors", ".sft"):
        if not zipfile.is_zipfile(path):
            raise HeaderError("cut off, or no PyTorch file")
        return size, "PyTorch file"
    return size, _kind(read_header(path), part)


def _describe_index(path: Path, part: str) -> tuple[int, str]:
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeaderError("no index of a sharded checkpoint") from error
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise HeaderError(f"{len(missing)} of {len(names)} shards are missing ({', '.join(missing[:2])})")
    header: Header = {}
    for name in names:
        header |= read_header(path.parent / name)
    return sum((path.parent / name).stat().st_size for name in names), f"{_kind(header, part)}, {len(names)} shards"


def read_header(path: Path) -> Header:
    """Tensor name -> {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises:
        HeaderError: if the file is damaged or shorter than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, LONGEST_HEADER_BYTES):
            raise HeaderError("cut off, or no safetensors file")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HeaderError("no safetensors file") from error
    if end > size:
        raise HeaderError(f"cut off: {size:,} of {end:,} bytes")
    return header


def _kind(header: Mapping[str, Any], part: str) -> str:
    found = identify({name: tensor["shape"] for name, tensor in header.items()})
    if part in KINDS and found is not KINDS[part]:
        raise OtherModelError(found.words.partition(";")[0] if isinstance(found, Kind) else found)
    sizes: Counter[str] = Counter()
    for name, tensor in header.items():
        begin, end = tensor["data_offsets"]
        sizes[tensor["dtype"]] += 0 if name == TOKENIZER else end - begin
    main = sizes.most_common(1)[0][0]
    return TYPES.get(main, main.lower())
