"""Starting a server that is none, and the base directory; the real one is in tests/integration."""

import json
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli.comfyui import activity, server
from wan_s2v_pack.cli.comfyui.client import ComfyClient, ComfyError
from wan_s2v_pack.cli.comfyui.server import (
    FOLDERS,
    MODEL_FOLDERS,
    ComfyServer,
    ServerError,
    free_port,
    link_pack,
    prepare_base_directory,
    write_model_paths,
)
from wan_s2v_pack.cli.models.folders import ModelFolders
from wan_s2v_pack.tests.systems import needs_links


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    return folder


def fake_comfyui(tmp_path: Path, source: str) -> Path:
    folder = tmp_path / "comfyui"
    folder.mkdir()
    (folder / "main.py").write_text(source)
    return folder


@needs_links
def test_base_directory_links_the_pack_and_keeps_what_is_there(tmp_path, pack):
    base = prepare_base_directory(tmp_path / "base", pack)
    (base / "input" / "mine.png").write_text("kept")
    assert prepare_base_directory(base, pack) == base
    assert all((base / name).is_dir() for name in FOLDERS)
    assert (base / "custom_nodes" / "wan_s2v").resolve() == pack.resolve()
    assert (base / "input" / "mine.png").read_text() == "kept"


@needs_links
def test_link_to_another_checkout_is_replaced(tmp_path, pack):
    other = tmp_path / "other"
    other.mkdir()
    link = tmp_path / "link"
    link_pack(other, link)
    link_pack(pack, link)
    assert link.resolve() == pack.resolve()


@pytest.mark.parametrize("error", [OSError("no links here"), None], ids=["refused", "nothing comes of it"])
def test_pack_is_copied_where_no_link_can_be_made(tmp_path, pack, monkeypatch, error):
    """Windows refuses links to most users; Wine makes none and says nothing."""
    monkeypatch.setattr(Path, "symlink_to", Mock(side_effect=error))
    for _ in range(2):
        link_pack(pack, tmp_path / "copy")
        assert (tmp_path / "copy" / "__init__.py").is_file()


def test_models_are_looked_for_where_comfyui_does(tmp_path):
    """In the older names of two folders too."""
    written = json.loads(write_model_paths(tmp_path, tmp_path / "models").read_text())["comfyui"]
    assert written.pop("base_path") == str(tmp_path / "models")
    assert written["diffusion_models"] == "diffusion_models/\nunet/"
    assert written["vae"] == "vae/"
    found = ModelFolders(Path("models"), {})
    assert {name: [Path("models", place) for place in places.split("\n")] for name, places in written.items()} == {
        name: found.of(name) for name in MODEL_FOLDERS
    }


def test_folder_without_comfyui(tmp_path):
    with pytest.raises(ServerError, match=r"no main\.py.*COMFYUI_PATH"):
        ComfyServer(tmp_path, tmp_path).start()


def test_server_that_fails_at_once_shows_its_log(tmp_path, pack):
    base = prepare_base_directory(tmp_path / "base", pack)
    server = ComfyServer(fake_comfyui(tmp_path, "raise SystemExit('out of luck')"), base)
    with pytest.raises(ServerError, match="out of luck"):
        server.start()
    assert not server.alive()


def test_server_that_never_answers_is_ended(tmp_path, pack):
    base = prepare_base_directory(tmp_path / "base", pack)
    server = ComfyServer(fake_comfyui(tmp_path, "import time; print('thinking', flush=True); time.sleep(60)"), base, timeout_s=2.0)
    with pytest.raises(ServerError, match=r"for 2 s it has neither written nor computed(.|\n)*thinking"):
        server.start()
    assert not server.alive()


@pytest.mark.parametrize("busy", [True, False], ids=["writes or computes", "does nothing"])
def test_slow_start_is_waited_for_as_long_as_something_happens(tmp_path, pack, monkeypatch, busy):
    """An hour on a clock that only the waiting moves."""
    clock = Mock(now=0.0)
    clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    for module in (server, activity):
        monkeypatch.setattr(module, "time", clock)
    slow = ComfyServer(tmp_path, prepare_base_directory(tmp_path / "base", pack))
    slow.log_file.write_text("Loading")
    monkeypatch.setattr(slow, "alive", lambda: True)
    monkeypatch.setattr(slow, "_answers", lambda: clock.now > 3600)
    monkeypatch.setattr(slow, "_work_done", lambda: (7, int(clock.now) // 100 if busy else 0))
    if busy:
        slow._wait_until_ready()
        assert clock.now > 3600
    else:
        with pytest.raises(ServerError, match=r"for 240 s it has neither(.|\n)*Loading"):
            slow._wait_until_ready()


def test_what_a_server_writes_is_work(tmp_path, pack):
    base = prepare_base_directory(tmp_path / "base", pack)
    at_work = ComfyServer(fake_comfyui(tmp_path, "import time; print('thinking', flush=True); time.sleep(60)"), base)
    at_work._wait_until_ready = lambda: None
    with at_work:
        while at_work._work_done()[0] < len("thinking"):  # what it computes: see test_activity.py
            assert at_work.alive()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("handler", "by"), [(signal.SIG_IGN, signal.SIGTERM), (signal.default_int_handler, signal.SIGINT)])
def test_server_is_asked_to_end_in_a_way_that_it_hears(tmp_path, pack, monkeypatch, handler, by):
    """A shell lets its background jobs ignore SIGINT, and their children inherit it."""
    base = prepare_base_directory(tmp_path / "base", pack)
    source = "import time\nprint('thinking', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(-2)"
    server = ComfyServer(fake_comfyui(tmp_path, source), base)

    def wait(server):
        while "thinking" not in server.log_text():
            assert server.alive()

    monkeypatch.setattr(ComfyServer, "_wait_until_ready", wait)
    before = signal.signal(signal.SIGINT, handler)
    try:
        process = server.start()._process
        server.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.returncode in (-by, 256 - by)


def test_client_without_a_server():
    client = ComfyClient(f"http://127.0.0.1:{free_port()}")
    for call in (client.object_info, lambda: client.wait("00000000-0000-0000-0000-000000000000")):
        with pytest.raises(ComfyError, match="does not answer"):
            call()


@pytest.mark.parametrize(("own_session", "flags"), [(True, 0x200), (False, 0)])
def test_ctrl_c_of_a_windows_console_reaches_only_a_server_without_a_session_of_its_own(tmp_path, monkeypatch, own_session, flags):
    asked = {}

    def start(_command, **options):
        asked.update(options)
        raise OSError("not started")

    monkeypatch.setattr(server, "OWN_GROUP", 0x200)  # CREATE_NEW_PROCESS_GROUP
    monkeypatch.setattr(server.subprocess, "Popen", start)
    base = tmp_path / "base"
    base.mkdir()
    with pytest.raises(OSError, match="not started"):
        ComfyServer(fake_comfyui(tmp_path, ""), base, own_session=own_session).start()
    assert (asked["start_new_session"], asked["creationflags"]) == (own_session, flags)
