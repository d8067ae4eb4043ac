"""Inputs and outputs by path or URL."""

import fsspec
import pytest
from wan_s2v_pack.cli.fleet import files
from wan_s2v_pack.cli.fleet.files import FileError, fetch, put, require_file


@pytest.fixture
def store():
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/me.png", b"picture")
    yield memory
    memory.rm("/", recursive=True)


def test_a_copy_is_named_by_its_content(store, tmp_path):
    (tmp_path / "other name.png").write_bytes(b"picture")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ours, theirs = fetch("memory://in/me.png", tmp_path / "a"), fetch(str(tmp_path / "other name.png"), tmp_path / "b")
    assert ours.name == theirs.name
    assert (ours.suffix, ours.read_bytes()) == (".png", b"picture")


def test_what_is_not_there_is_said(store):
    require_file("memory://in/me.png")
    with pytest.raises(FileError, match=r"there is no file memory://in/you\.png"):
        require_file("memory://in/you.png")


def test_a_missing_package_is_named(monkeypatch):
    def missing(_place):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(files, "url_to_fs", missing)
    with pytest.raises(FileError, match="pip install s3fs"):
        require_file("s3://bucket/me.png")


def test_a_video_goes_to_its_place(store, tmp_path):
    video = tmp_path / "video.mp4"
    video.write_bytes(b"video")
    put(video, "memory://out/talk.mp4")
    put(video, str(tmp_path / "new folder" / "talk.mp4"))
    assert store.cat("/out/talk.mp4") == b"video"
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["talk.mp4"]


def test_a_video_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "talk.mp4"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="gone"):
        put(tmp_path / "gone.mp4", str(target))
    assert target.read_bytes() == b"old"
