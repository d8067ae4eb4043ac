"""Every parser that reads what strangers made, as a function of bytes, with seeds to begin from: errors in words are fine."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from wan_s2v_pack.cli.models.headers import HeaderError, read_header
from wan_s2v_pack.tests.damaged_files import LEGACY_PICKLE, PICKLE, SAFETENSORS, with_header
from wan_s2v_pack.tests.raw_errors import raw_error
from wan_s2v_pack.tts_worker.cosyvoice_worker import Refusal, checked
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.identify import identify, unwrap
from wan_s2v_pack.wan_s2v_model.checkpoints.lora_settings import read_settings
from wan_s2v_pack.wan_s2v_model.checkpoints.s2v import infer_config
from wan_s2v_pack.wan_s2v_model.checkpoints.shards import shard_files
from wan_s2v_pack.wan_s2v_model.checkpoints.weights_file import reading, require_tensors
from wan_s2v_pack.wan_s2v_model.media.espeak import read_wav, write_wav
from wan_s2v_pack.wan_s2v_model.runs.identity import content_of
from wan_s2v_pack.wan_s2v_model.runs.manifest import Manifest, ManifestError, read_manifest
from wan_s2v_pack.wan_s2v_model.untrusted import read_json

FOLDER = Path(tempfile.mkdtemp(prefix="wan_s2v_fuzz_"))
OURS = (CheckpointError, HeaderError, ManifestError, Refusal)


class Target(NamedTuple):
    """A parser and what it is given first."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _in_file(name: str, parse: Callable[[Path], object]) -> Callable[[bytes], object]:
    def run(data: bytes) -> object:
        path = FOLDER / name
        path.write_bytes(data)
        return parse(path)

    return run


def _load(path: Path) -> object:
    with reading(path):
        contents = torch.load(path, map_location="cpu", weights_only=True)
    return require_tensors(contents, path)


def _names(data: bytes) -> object:
    """Names of tensors, as of a GGUF or safetensors file: one a line."""
    shapes = {name: (64, 16, 1, 2, 2) for name in data.decode(errors="replace").split("\n")}
    identify(shapes)
    return infer_config(unwrap(shapes, "fuzz"), {"config": data.decode(errors="replace")}, file_name="fuzz")


def _settings(data: bytes) -> object:
    return read_settings(FOLDER / "lora.safetensors", {"lora_adapter_metadata": data.decode(errors="replace")})


HEADER = SAFETENSORS[8 : 8 + int.from_bytes(SAFETENSORS[:8], "little")]
VERSIONS = ({"from_clip": 0, "torch": "2"},)
MANIFEST = Manifest(fingerprint={"seed": 1, "clips": 2}, hashes=("0" * 64,), made_with=VERSIONS, redone_from=1).encode()
INDEX = json.dumps({"weight_map": {"a": "m-00001-of-00002.safetensors"}}).encode()
REQUEST = {"text": "x", "reference_wav": "", "reference_text": "", "language": "en", "speed": 1.0, "seed": 1}

SMALL = with_header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4))
NAMES = b"blocks.0.self_attn.q.weight\nblocks.1.x.y\nmodel.diffusion_model.head.modulation"


def _header(data: bytes) -> object:
    return _in_file("h.safetensors", read_header)(struct.pack("<Q", len(data)) + data + SAFETENSORS[8 + len(HEADER) :])


TARGETS = {
    "safetensors": Target(_in_file("m.safetensors", read_header), (SAFETENSORS, SMALL)),
    "header": Target(_header, (HEADER,)),
    "index": Target(_in_file("m.safetensors.index.json", shard_files), (INDEX,)),
    "identity": Target(_in_file("i.safetensors", content_of), (SAFETENSORS, SMALL, PICKLE)),
    "manifest": Target(_in_file("manifest.json", lambda path: read_manifest(path.parent)), (MANIFEST,)),
    "pth": Target(_in_file("m.pth", _load), (PICKLE, LEGACY_PICKLE)),
    "names": Target(_names, (NAMES, b'{"transformer":{"audio_inject_layers":[0]}}')),
    "lora settings": Target(_settings, (b'{"transformer.lora_alpha": 8, "transformer.r": 4, "transformer.alpha_pattern": {"a": 3}}',)),
    "wav": Target(read_wav, (write_wav(torch.zeros(1, 50), 16_000),)),
    "json": Target(read_json, (MANIFEST, b'{"event": [1, 2.5, null, true, "\\u00fc"]}')),
    "speech request": Target(lambda data: checked(read_json(data)), (json.dumps(REQUEST).encode(),)),
}


def try_one(name: str, data: bytes) -> None:
    """Raise what no person understands; what is in words is caught."""
    try:
        TARGETS[name].parse(data)
    except OURS:
        return
    except (ValueError, OSError) as error:
        raw = None if _is_json(error) else raw_error(error)
        if raw:
            raise AssertionError(f"{name}: {raw} from {data[:200]!r}") from error


def _is_json(error: BaseException) -> bool:
    """The words of Python's own JSON reader, which all callers put into a sentence of theirs."""
    return isinstance(error, json.JSONDecodeError | UnicodeDecodeError) or "integer string conversion" in str(error)
