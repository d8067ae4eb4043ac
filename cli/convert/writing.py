"""A safetensors file, written tensor after tensor, so that it may be larger than the memory; it gets its name when it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

try:
    from ...wan_s2v_model.files import written_whole
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import written_whole

if TYPE_CHECKING:
    from torch import Tensor

ALIGNMENT = 8  # bytes; the data behind a header begins at a multiple
PART_SUFFIX = ".part"  # ComfyUI does not list it
WriteSpec = tuple[str, str, tuple[int, ...], int]  # name, type as safetensors names it, shape, bytes


def file_header(specs: Iterable[WriteSpec], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a safetensors file whose tensors follow in this order."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    begin = 0
    for name, dtype, shape, num_bytes in specs:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + num_bytes]}
        begin += num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_file(path: Path, header: bytes, tensors: Iterable[Tensor]) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: nothing is left but what was there before. ValueError: the tensors are not those of the header.
    """
    with written_whole(path, PART_SUFFIX) as file:
        file.write(header)
        _write_all(file, tensors, header)


def _write_all(file: BinaryIO, tensors: Iterable[Tensor], header: bytes) -> None:
    end = len(header)
    for tensor in tensors:
        end += file.write(raw_bytes(tensor))
    announced = max((entry["data_offsets"][1] for name, entry in json.loads(header[8:]).items() if name != "__metadata__"), default=0)
    if end != len(header) + announced:
        raise ValueError(f"the tensors have {end - len(header):,} bytes instead of {announced:,}")


def raw_bytes(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they lie in memory, of any type."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
