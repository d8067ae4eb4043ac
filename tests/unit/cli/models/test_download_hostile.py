"""Folders of models in which somebody has put something else in place of a download, and mirrors that send something else."""

from __future__ import annotations

import dataclasses
import hashlib
import os

import pytest
from wan_s2v_pack.cli.models import download, hub
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


def test_a_mirror_that_sends_more_than_it_announced(fake, models, capsys, monkeypatch):
    """Before, the disk was filled with whatever came."""

    def flood(url, stream, **_):
        while True:
            stream.write(bytes(65536))

    monkeypatch.setattr(hub, "http_get", flood)
    assert run(models, only="vae") == 1
    assert "sends more than the 400,000 bytes that it announced" in capsys.readouterr().err
    assert all(path.stat().st_size <= 400_000 for path in models.rglob("*") if path.is_file())


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_a_file_is_compared_with_the_hash_that_the_pack_knows(fake, models, capsys, monkeypatch, sha256):
    every = download.select
    monkeypatch.setattr(download, "select", lambda *which: [dataclasses.replace(file, sha256=sha256) for file in every(*which)])
    assert run(models, only="vae") == (1 if sha256 else 0)
    told = capsys.readouterr()
    assert ("is not the published file" in told.err) == bool(sha256)
    assert ("knows no hash" in told.out) == (not sha256)
    assert (models / "vae" / "wan_2.1_vae.safetensors").exists() == (not sha256)
