"""`convert`: a Wan S2V transformer in 16 bits to a file of ComfyUI's mixed precision layers."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .source import Entry, Source
    from .writing import WriteSpec

NAMES = {
    "fp8_scaled": "e4m3, one scale per matrix; any card, half the memory",
    "mxfp8": "e4m3, one scale per 32 values; computed in hardware on GeForce 50 and B200",
    "nvfp4": "4 bits, one scale per 16 values; computed in hardware on GeForce 50 and B200",
    "int8": "8-bit integers, one scale per output; computed in hardware from GeForce 20 on",
    "int8_rotated": "int8 of turned inputs: exacter where some channels are loud, a little slower",
}
TYPES = {"torch.float8_e4m3fn": "F8_E4M3", "torch.uint8": "U8", "torch.int8": "I8", "torch.float32": "F32"}
PRECISION_IN_NAME = re.compile(r"[_-](bf16|fp16|fp32)$", re.IGNORECASE)
GB = 1e9
INTERRUPTED = 130  # exit status, as of a shell
DESCRIPTION = """Pack the matrices of a Wan2.2-S2V transformer, so that it takes less memory and, on cards that can, less time.

The new file loads in Load Wan S2V Model and in ComfyUI's own Load Diffusion Model. The matrices of the blocks and of the audio
injectors are packed, all else stays as it is. What each format costs in exactness: docs/performance.md."""


class ConvertError(Exception):
    """Something the user can put right."""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    formats = "\n".join(f"  {name:13s} {words}" for name, words in NAMES.items())
    parser = commands.add_parser(
        "convert",
        help="pack a transformer into fp8, int8 or nvfp4",
        description=f"{DESCRIPTION}\n\nformats:\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="FILE", help="a bf16, fp16 or fp32 .safetensors file, or the index of its shards")
    parser.add_argument("--to", choices=NAMES, required=True, metavar="FORMAT", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the new file (default: beside the source, named after the format)")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be written, and how large")
    parser.add_argument("--force", action="store_true", help="replace a file that is there already")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command and return the exit status: 0 if the file is written (or would be), 1 on an error, 130 when interrupted."""
    try:
        from .source import SourceError
    except ImportError as error:
        return _failed(f"{error}. Use the Python that runs ComfyUI.")
    try:
        convert(options.source, options.to, options.output, dry_run=options.dry_run, force=options.force)
    except (ConvertError, SourceError) as error:
        return _failed(str(error))
    except ImportError as error:
        return _failed(f"{error}. Use the Python that runs ComfyUI, which has PyTorch and comfy-kitchen; update ComfyUI if it is old.")
    except OSError as error:
        place = error.filename2 or error.filename or "A file"
        return _failed(f"{place} cannot be read or written ({error.strerror or error}). Choose another place with --output.")
    except KeyboardInterrupt:
        print("\nconvert interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    return 0


def _failed(reason: str) -> int:
    print(f"convert failed: {reason}", file=sys.stderr)
    return 1


def convert(path: Path, name: str, output: Path | None = None, *, dry_run: bool = False, force: bool = False) -> Path:
    """Write the new file; returns its path.

    Raises:
        SourceError: the source is no plain Wan S2V transformer. ConvertError: the new file has no place. OSError: a disk fails.
    """
    from .source import open_source
    from .writing import file_header, write_file

    source = open_source(path)
    target = output or _beside(path, name)
    specs = [spec for entry in source.entries for spec in _specs(entry, name)]
    header = file_header(specs, source.metadata)
    size = len(header) + sum(spec[3] for spec in specs)
    packed = sum(1 for entry in source.entries if _is_packed(entry))
    print(f"{path.name}: {source.num_bytes / GB:.2f} GB, {packed} of {len(source.entries)} tensors are packed to {name}")
    print(f"{target}: {size / GB:.2f} GB")
    _require_place(target, path, size, force=force)
    if not dry_run:
        write_file(target, header, _converted(source, name))
        print("written; press R in ComfyUI to see it")
    return target


def _beside(path: Path, name: str) -> Path:
    """Named after the source, or after its folder where that holds shards, without the word for its precision."""
    is_index = path.name.endswith(".index.json")
    stem = PRECISION_IN_NAME.sub("", path.absolute().parent.name if is_index else path.stem)
    folder = path.absolute().parent.parent if is_index else path.parent
    return folder / f"{stem}_{name}.safetensors"


def _require_place(target: Path, source: Path, size: int, *, force: bool) -> None:
    folder = target.absolute().parent
    if not folder.is_dir():
        raise ConvertError(f"There is no folder {folder}. Make it, or choose another place with --output.")
    if target.suffix != ".safetensors":
        raise ConvertError(f"{target.name} must end in .safetensors, or ComfyUI does not list it.")
    if target.exists() and (not force or target.samefile(source)):
        advice = "Choose another name with --output." if force else "Choose another name with --output, or replace it with --force."
        raise ConvertError(f"{target} is there already. {advice}")
    if (free := shutil.disk_usage(folder).free) < size:
        have = f"The file needs {size / GB:.2f} GB, but only {free / GB:.2f} GB are free in {folder}."
        raise ConvertError(f"{have} Make room, or choose another place with --output.")


def _is_packed(entry: Entry) -> bool:
    from .formats import can_pack

    return entry.is_packed and can_pack(entry.shape)


def _specs(entry: Entry, name: str) -> Iterator[WriteSpec]:
    """What the new file holds of a tensor of the source."""
    from .formats import num_bytes, packed_parts

    if not _is_packed(entry):
        yield entry.name, entry.dtype, entry.shape, entry.num_bytes
        return
    rows, columns = entry.shape
    for suffix, (dtype, shape) in packed_parts((rows, columns), name).items():
        yield entry.name.removesuffix(".weight") + suffix, TYPES[str(dtype)], shape, num_bytes(dtype, shape)


def _converted(source: Source, name: str) -> Iterator[Tensor]:
    """The tensors in the order of the header, with a bar that shows how much of the source is done."""
    from tqdm import tqdm

    from .formats import packed

    with source.reading() as read, tqdm(total=source.num_bytes, unit="B", unit_scale=True, desc=name, mininterval=0.5) as bar:
        for entry in source.entries:
            tensor = read(entry)
            if _is_packed(entry):
                if not tensor.isfinite().all():
                    raise ConvertError(f"{entry.stored_name} holds NaN or infinite numbers: the file is damaged. Download it again.")
                yield from packed(tensor, name).values()
            else:
                yield tensor
            bar.update(entry.num_bytes)
