"""The stored results, unpacked."""

import lzma
import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed part of the golden set, in the layout that replay.py reads."""
    folder = tmp_path_factory.mktemp("golden")
    for path in DATA.rglob("*"):
        target = folder / path.relative_to(DATA)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xz":
            target.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        elif path.is_file():
            shutil.copyfile(path, target)
    return folder
