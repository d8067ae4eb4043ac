"""Folders of models in which somebody has put something else in place of a download."""

from __future__ import annotations

import hashlib
import os

import pytest
from wan_s2v_pack.tests.fake_hub import CONTENTS, VAE

from .test_download import fake as fake
from .test_download import models as models
from .test_download import run


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_nothing_is_written_through_a_link_in_place_of_a_part(fake, models, tmp_path):
    (tmp_path / "precious.txt").write_bytes(b"")
    partial = models / "vae" / f"{VAE}.{hashlib.sha256(CONTENTS[VAE]).hexdigest()[:8]}.part"
    partial.parent.mkdir()
    partial.symlink_to(tmp_path / "precious.txt")
    assert run(models, only="vae") == 0
    assert (tmp_path / "precious.txt").read_bytes() == b""
    assert (models / "vae" / VAE).read_bytes() == CONTENTS[VAE]
    assert not (models / "vae" / VAE).is_symlink()
