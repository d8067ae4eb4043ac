"""What lies under the name of a weights file, told from its first and last bytes."""

from contextlib import nullcontext

import pytest
from wan_s2v_pack.tests.damaged_files import LEGACY_PICKLE, LFS_POINTER, PICKLE, SAFETENSORS, WEB_PAGE
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError, listing, problem_of, require_no_stand_in


@pytest.mark.parametrize(
    ("name", "data"), [("a.safetensors", SAFETENSORS), ("a.SFT", SAFETENSORS), ("a.pth", PICKLE), ("a.bin", LEGACY_PICKLE)]
)
def test_complete_files_have_no_problem(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert problem_of(tmp_path / name) is None


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.pth", SAFETENSORS, "it is a safetensors file under another name"),
        ("a.safetensors", PICKLE, "it is a PyTorch file under another name"),
        ("a.safetensors", SAFETENSORS[:-1], f"it is cut off: {len(SAFETENSORS) - 1:,} of {len(SAFETENSORS):,} bytes are there"),
        ("a.safetensors", SAFETENSORS + b"..", "it has 2 bytes too many"),
        ("a.pth", PICKLE[:-50], f"it is cut off after {len(PICKLE) - 50:,} bytes"),
        ("a.pth", b"\xff\x00\xfe" * 99, "it is in no known format"),
    ],
)
def test_files_that_are_something_else(name, data, problem, tmp_path):
    (tmp_path / name).write_bytes(data)
    assert problem_of(tmp_path / name)[0] == problem


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"spiece\.model is damaged \(it is empty\)\. Download"),
        (LFS_POINTER, r"spiece\.model is damaged \(it is a Git LFS pointer.*git lfs pull"),
        (WEB_PAGE, r"spiece\.model is damaged \(it is a web page"),
        (b"\n\x0e\n\x05<pad>", None),
        (b"pieces", None),
    ],
)
def test_stand_ins_of_other_files(data, message, tmp_path):
    path = tmp_path / "spiece.model"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message) if message else nullcontext():
        require_no_stand_in(path)


@pytest.mark.parametrize(("names", "text"), [("", ""), ("abc", "3 tensors lost (a, b, c)"), ("abcd", "4 tensors lost (a, b, c, ...)")])
def test_listing_names_the_first_three(names, text):
    assert listing("lost", list(names)) == text
