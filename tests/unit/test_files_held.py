"""What Windows does when a virus scanner or a reader has a file open: nothing finished is lost, and no clean-up hides the cause."""

import ast
import errno
from math import inf
from pathlib import Path

import av
import pytest
import torch
from wan_s2v_pack.cli.comfyui.client import ComfyClient, OutputFile
from wan_s2v_pack.cli.comfyui.server import link_pack
from wan_s2v_pack.cli.models.download import Task, digest_of, install
from wan_s2v_pack.cli.predict.job import require_writable
from wan_s2v_pack.cli.runs.folder import read_run
from wan_s2v_pack.cli.runs.removal import remove as remove_run
from wan_s2v_pack.cli.runs.removal import whole_run
from wan_s2v_pack.tests.held_files import HeldFiles, held
from wan_s2v_pack.wan_s2v_model import files
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS, LIVE_FORMAT
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter, VideoWriterError
from wan_s2v_pack.wan_s2v_model.runs.manifest import Manifest
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore, RunStoreError

ROOT = Path(__file__).resolve().parents[2]
DIRECT = {"unlink", "rename"}  # of a path
OF_OS = {"replace", "rename", "remove", "unlink"}
OF_SHUTIL = {"move", "rmtree"}
LINKS = {("cli/comfyui/server.py", "link.unlink")}  # a link in a folder of our own
NO_MATTER = {("cli/fleet/worker.py", "shutil.rmtree")}  # what cannot be removed there stays
CALLS = ("os.replace", "path.unlink", "part.unlink", "mark.unlink", "Path(lock.lock_file).unlink", "shutil.rmtree")
IN_FILES = {("wan_s2v_model/files.py", name) for name in CALLS}
CLIP = {"latents": torch.zeros(16, 5, 6, 8), "motion_latents": None, "frames": torch.zeros(1, 8, 8, 3, dtype=torch.uint8)}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(files, "AGAIN_S", 0.01)
    monkeypatch.setattr(files, "HELD_S", 0.2)


@pytest.fixture(params=[1, 2], ids=["held once", "held twice"])
def for_a_moment(request, monkeypatch):
    monkeypatch.setattr(files, "HELD_S", 60)  # a slow machine does not reach it
    return HeldFiles(monkeypatch, request.param)


@pytest.fixture
def for_ever(monkeypatch):
    return HeldFiles(monkeypatch, inf)


def write_video(path, video_format=FORMATS["mp4 (h264)"]):
    with VideoWriter(path, width=64, height=48, fps=16, video_format=video_format, quality=30) as video:
        video.write(torch.zeros(4, 48, 64, 3, dtype=torch.uint8))


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_when_it_is_let_go(tmp_path, for_a_moment):
    files.write_atomically(tmp_path / "manifest.json", b"new")
    assert (tmp_path / "manifest.json").read_bytes() == b"new"
    assert names(tmp_path) == ["manifest.json"]
    assert for_a_moment.attempts == {"manifest.json.tmp": 0}


def test_a_file_that_is_held_for_ever_keeps_what_it_was_and_the_error_is_that_of_renaming(tmp_path, for_ever, caplog):
    (tmp_path / "manifest.json").write_bytes(b"old")
    with pytest.raises(PermissionError) as caught:
        files.write_atomically(tmp_path / "manifest.json", b"new")
    assert caught.value.winerror == 32
    assert (tmp_path / "manifest.json").read_bytes() == b"old"
    assert "manifest.json.tmp could not be removed" in caplog.text


def test_a_file_that_cannot_be_opened_at_once_is_written(tmp_path, monkeypatch):
    path_open, refused = Path.open, []

    def opening(path, *arguments, **options):
        if not refused:
            refused.append(path)
            raise held(path)
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", opening)
    monkeypatch.setattr(files, "HELD_S", 60)
    files.write_atomically(tmp_path / "manifest.json", b"new")
    assert (tmp_path / "manifest.json").read_bytes() == b"new"


def test_what_is_forbidden_is_not_waited_for(tmp_path, monkeypatch):
    attempts = []

    def refuse(_path, **_options):
        attempts.append(1)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "unlink", refuse)
    with pytest.raises(PermissionError):
        files.remove(tmp_path / "file")
    assert attempts == [1]


@pytest.mark.parametrize("video_format", [FORMATS["mp4 (h264)"], LIVE_FORMAT], ids=["finished", "live"])
def test_a_video_gets_its_name_when_it_is_let_go(tmp_path, for_a_moment, video_format):
    write_video(tmp_path / "song.mp4", video_format)
    assert names(tmp_path) == ["song.mp4"]
    assert num_frames(tmp_path / "song.mp4") == 4


def test_a_live_video_is_not_renamed_while_a_browser_has_it_open(tmp_path, for_ever):
    write_video(tmp_path / "live.mp4", LIVE_FORMAT)
    assert num_frames(tmp_path / "live.mp4") == 4


def test_a_finished_video_that_cannot_be_renamed_is_kept_and_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        HeldFiles(patch, inf)
        with pytest.raises(VideoWriterError, match=r"complete.*song_00001_\.part\.mp4.*rename it"):
            write_video(tmp_path / "song_00001_.mp4")
    kept = tmp_path / "song_00001_.part.mp4"
    assert num_frames(kept) == 4
    files.remove_abandoned(tmp_path.glob("song_*_.part.*"))  # as the next Save Video does
    assert num_frames(kept) == 4
    kept.rename(tmp_path / "song_00001_.mp4")
    files.remove_abandoned(tmp_path.glob("song_*_.part.*"))
    assert names(tmp_path) == ["song_00001_.mp4"]


def test_an_unfinished_video_that_cannot_be_removed_does_not_hide_why_it_failed(tmp_path, for_ever):
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "song.mp4", width=64, height=48, fps=16, video_format=FORMATS["mp4 (h264)"], quality=30),
    ):
        raise KeyboardInterrupt


def test_a_clip_is_kept_and_dropped_when_its_files_are_let_go(tmp_path, for_a_moment):
    with RunStore.open(tmp_path / "run") as store:
        store.write_clip(0, **CLIP)
        store.write_clip(1, **CLIP)
        store.drop_from(1)
    assert [name for name in names(tmp_path / "run") if name != "run.lock"] == ["clip_00000.safetensors", "manifest.json"]


def test_a_clip_that_cannot_be_stored_says_why_though_nothing_can_be_removed(tmp_path, monkeypatch):
    with RunStore.open(tmp_path / "run") as store:
        HeldFiles(monkeypatch, inf)
        with pytest.raises(RunStoreError, match=r"cannot store clip 1 .*cannot access the file") as caught:
            store.write_clip(0, **CLIP)
        assert "clip_00000.safetensors.tmp" in str(caught.value.__cause__)


def test_a_run_opens_though_what_a_crash_left_cannot_be_removed(tmp_path, for_ever, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(Manifest().encode())
    left = tmp_path / "run" / "clip_00000.safetensors.tmp"
    left.touch()
    with pytest.raises(RunStoreError, match="cannot access"):  # a run without clips writes its manifest, which cannot get its name either
        RunStore.open(tmp_path / "run")
    assert f"{left} could not be removed" in caplog.text or not left.exists()  # on Windows the look at its lock removes it


def test_a_video_is_fetched_when_it_is_let_go(tmp_path, for_a_moment, monkeypatch):
    monkeypatch.setattr(ComfyClient, "_receive", lambda self, file, destination: destination.write_bytes(b"video"))
    ComfyClient("http://127.0.0.1:1").download(OutputFile("song.mp4", "", "output"), tmp_path / "song.mp4")
    require_writable(tmp_path / "other.mp4")
    assert names(tmp_path) == ["song.mp4"]


def test_a_model_file_gets_its_name_when_it_is_let_go(tmp_path, for_a_moment, monkeypatch):
    from wan_s2v_pack.cli.models import hub

    (tmp_path / "like").write_bytes(b"weights")
    digest = digest_of(tmp_path / "like", "0" * 64)
    monkeypatch.setattr(hub, "fetch", lambda remote, destination: destination.write_bytes(b"weights"))
    model = hub.RemoteFile(hub.ModelFile("vae", "owner/name", "vae.safetensors", "vae.safetensors", 0.0), "", digest, len(b"weights"))
    install(Task(model, tmp_path / "vae.safetensors", "to download"))
    assert (tmp_path / "vae.safetensors").read_bytes() == b"weights"


def test_a_copy_of_the_pack_is_replaced_when_its_files_are_let_go(tmp_path, for_a_moment, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: None)  # as under Wine
    for content in ("old", "new"):
        (tmp_path / "pack").mkdir(exist_ok=True)
        (tmp_path / "pack" / "__init__.py").write_text(content)
        link_pack(tmp_path / "pack", tmp_path / "copy")
    assert (tmp_path / "copy" / "__init__.py").read_text() == "new"
    assert for_a_moment.attempts["__init__.py"] == 0


def test_a_run_is_deleted_when_it_is_let_go(tmp_path, for_a_moment):
    with RunStore.open(tmp_path / "run") as store:
        store.write_clip(0, **CLIP)
    remove_run(whole_run(read_run(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def renames_or_removes(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    of, name = ast.unparse(call.func.value), call.func.attr
    is_of_a_path = name in DIRECT or (name == "replace" and len(call.args) == 1 and not call.keywords)  # that of a text has two
    return is_of_a_path or (of == "os" and name in OF_OS) or (of == "shutil" and name in OF_SHUTIL)


def test_nothing_is_renamed_or_removed_but_by_the_functions_that_wait():
    found = set()
    for folder in ("wan_s2v_model", "nodes", "cli"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)):
                if renames_or_removes(call):
                    found.add((path.relative_to(ROOT).as_posix(), ast.unparse(call.func)))
    assert found == LINKS | IN_FILES | NO_MATTER
