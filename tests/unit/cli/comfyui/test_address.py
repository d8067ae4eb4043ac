"""Headers from a file: one a line, from a plain file that is not larger than such a file can be."""

import argparse
import os

import pytest
from wan_s2v_pack.cli.comfyui import address


def test_a_file_has_one_header_a_line(tmp_path):
    (tmp_path / "headers").write_text("X-Token: a b\n\nX-Other: 1\n", encoding="utf-8")
    assert address.headers(f"@{tmp_path / 'headers'}") == (("X-Token", "a b"), ("X-Other", "1"))


@pytest.mark.parametrize("content", [b"\xff: 1", b"X: 1\n" * 300_000], ids=["no text", "too large"])
def test_another_file_is_refused(content, tmp_path):
    (tmp_path / "headers").write_bytes(content)
    with pytest.raises(argparse.ArgumentTypeError, match=r"the file .*headers cannot be read \(it "):
        address.headers(f"@{tmp_path / 'headers'}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "headers")
    with pytest.raises(argparse.ArgumentTypeError, match="it is no plain file"):
        address.headers(f"@{tmp_path / 'headers'}")
