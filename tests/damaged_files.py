"""Contents of files that lie under the name of a model and are none."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

AGAIN = "Download the file again"
TENSORS = {f"layer{index}.weight": torch.arange(64.0).reshape(8, 8) for index in range(3)}
SAFETENSORS = save(TENSORS)
HEADER_LENGTH = int.from_bytes(SAFETENSORS[:8], "little")
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
WEB_PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>...</body></html>"
GGUF = b"GGUF\x03\x00\x00\x00" + bytes(range(100))


class Program:
    """What a pickle can do that is not to be trusted."""

    def __reduce__(self):
        return print, ("a pickled program was run",)


def pytorch(contents: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(contents, buffer, **options)
    return buffer.getvalue()


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), data)
    return buffer.getvalue()


def with_header(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


PICKLE = pytorch(TENSORS)
LEGACY_PICKLE = pytorch(TENSORS, _use_new_zipfile_serialization=False)
PLACES = LEGACY_PICKLE.rindex(b"\x80\x02]")  # of the list of storages behind the tensors
LOST_PLACE = LEGACY_PICKLE[:PLACES] + re.sub(rb"\d(?=q)", b" ", LEGACY_PICKLE[PLACES:], count=1)
ZIP = archive(model_dot_safetensors=SAFETENSORS)
TORCHSCRIPT = archive(model__data_dot_pkl=b"\x80\x02}.", model__constants_dot_pkl=b"\x80\x02).")

# name of the file: (contents, what it looks like, what to do)
DAMAGED_FILES: dict[str, tuple[bytes, str, str]] = {
    "empty.safetensors": (b"", "it is empty", AGAIN),
    "empty.pth": (b"", "it is empty", AGAIN),
    "zeros.safetensors": (bytes(4096), "it begins with zeros only, like a download that has not finished", AGAIN),
    "zeros.pth": (bytes(4096), "it begins with zeros only, like a download that has not finished", AGAIN),
    "page.safetensors": (WEB_PAGE, "it is a web page", "logged in"),
    "page.pth": (b"\n  <HTML>" + WEB_PAGE, "it is a web page", "logged in"),
    "xml.safetensors": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is a web page", "logged in"),
    "answer.safetensors": (b"Invalid username or password.", 'it is a text file that begins with "Invalid username or password."', AGAIN),
    "answer.pth": (b'{"error":"Entry not found"}', 'it is a text file that begins with "{"error":"Entry not found"}"', AGAIN),
    "umlauts.pth": (("Größe " * 100).encode()[1:], 'it is a text file that begins with "röße Größe', AGAIN),
    "pointer.safetensors": (LFS_POINTER, "it is a Git LFS pointer instead of the file", "git lfs pull"),
    "pointer.pth": (LFS_POINTER, "it is a Git LFS pointer instead of the file", "git lfs pull"),
    "renamed_gguf.safetensors": (GGUF, "it is a GGUF file", "Load it with a GGUF loader"),
    "renamed_gguf.pth": (GGUF, "it is a GGUF file", "Load it with a GGUF loader"),
    "zip.safetensors": (ZIP, "it is a packed archive", "Unpack it"),
    "zip.pth": (ZIP, "it is a packed archive", "Unpack it"),
    "gzip.pth": (b"\x1f\x8b\x08\x00" + bytes(range(99)), "it is a packed archive", "Unpack it"),
    "7z.safetensors": (b"7z\xbc\xaf\x27\x1c" + bytes(range(99)), "it is a packed archive", "Unpack it"),
    "keras.bin": (b"\x89HDF\r\n\x1a\n" + bytes(range(99)), "it is a TensorFlow file", "Pick the .safetensors version"),
    "noise.safetensors": (b"\xff\xfe" * 300, "it is in no known format", AGAIN),
    "noise.pth": (b"\xff\xfe" * 300, "it is in no known format", AGAIN),
    "renamed_pickle.safetensors": (PICKLE, "it is a PyTorch file under another name", "Rename it to .pth"),
    "renamed_old_pickle.sft": (LEGACY_PICKLE, "it is a PyTorch file under another name", "Rename it to .pth"),
    "renamed_safetensors.pth": (SAFETENSORS, "it is a safetensors file under another name", "Rename it to .safetensors"),
    "cut_in_header.safetensors": (SAFETENSORS[:60], "it is cut off inside its header, after 60 bytes", AGAIN),
    "cut_in_data.safetensors": (
        SAFETENSORS[:-100],
        f"it is cut off: {len(SAFETENSORS) - 100:,} of {len(SAFETENSORS):,} bytes are there",
        AGAIN,
    ),
    "cut_after_header.safetensors": (SAFETENSORS[: 8 + HEADER_LENGTH], "it is cut off: ", AGAIN),
    "too_long.safetensors": (SAFETENSORS + b"1234", "it has 4 bytes too many", AGAIN),
    "bad_header.safetensors": (SAFETENSORS[:20] + b"\xff\xff" + SAFETENSORS[22:], "its header is damaged", AGAIN),
    "strange_header.safetensors": (with_header(b'{"a": [1, 2, 3]}'), "its header is damaged", AGAIN),
    "strange_type.safetensors": (
        with_header(b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}', b"1234"),
        "its contents cannot be read",
        AGAIN,
    ),
    "cut.pth": (PICKLE[:-300], f"it is cut off after {len(PICKLE) - 300:,} bytes", AGAIN),
    "cut_at_once.safetensors": (SAFETENSORS[:5], "it is cut off after 5 bytes", AGAIN),
    "cut_early.bin": (PICKLE[:200], "it is cut off after 200 bytes", AGAIN),
    "cut_old_pickle.pth": (LEGACY_PICKLE[:-100], "its contents cannot be read", AGAIN),
    "other_place.pth": (LOST_PLACE, "its contents cannot be read", AGAIN),
    "program.pth": (pytorch({"weight": Program()}), "it holds other Python objects than tensors", "Pick the .safetensors version"),
    "program.bin": (pickle.dumps({"weight": Program()}, 2), "it holds other Python objects than tensors", "Pick the .safetensors version"),
    "module.pth": (pytorch(torch.nn.Linear(2, 2)), "it holds other Python objects than tensors", "Pick the .safetensors version"),
    "torchscript.pt": (TORCHSCRIPT, "it is a TorchScript program", "Pick the .safetensors version"),
    "list.pth": (pytorch([torch.zeros(2), torch.zeros(3)]), "it holds no tensors with names", "Pick the published file"),
    "training.pth": (
        pytorch({"model": TENSORS, "optimizer": {"lr": 0.1}, "epoch": 3}),
        "it holds more than tensors: model, optimizer, epoch; it looks like a file from training",
        "Pick the published file",
    ),
}


def write(folder: Path, file_name: str) -> Path:
    path = folder / file_name
    path.write_bytes(DAMAGED_FILES[file_name][0])
    return path
