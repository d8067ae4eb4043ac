"""The download command against a hub of our own on loopback, which can break in all the ways that matter."""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import json
import os
import signal
import sys
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants
from wan_s2v_pack.cli.models import download, hub
from wan_s2v_pack.cli.models.files import BY_DEFAULT, FILES, PARTS, by_name, select
from wan_s2v_pack.tests.fake_hub import AUDIO, CHUNK_BYTES, CONTENTS, VAE, FakeHub, Handler
from wan_s2v_pack.tests.processes import start_and_heed
from wan_s2v_pack.tests.systems import words_for

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def fake(monkeypatch):
    """A hub on loopback, which `hub` asks instead of the real one."""
    fake = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": fake}))
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(hub, "ENDPOINT", fake.url)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)  # what came of a chunk is lost when the connection breaks
    monkeypatch.setattr(time, "sleep", lambda _, sleep=time.sleep: sleep(0.001))  # between the library's own attempts
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty models folder on a disk with a terabyte free, whatever the disk of the tests has."""
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: argparse.Namespace(free=10**12))
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def parse(*arguments):
    parser = argparse.ArgumentParser()
    download.add_parser(parser.add_subparsers())
    return parser.parse_args(["download", *map(str, arguments)])


def run(models, *arguments, only="audio,vae"):
    return download.run(parse("--models-dir", models, "--only", only, "--yes", *arguments))


def files_of(models):
    return {path.relative_to(models).as_posix(): path.read_bytes() for path in sorted(models.rglob("*")) if path.is_file()}


INSTALLED = {f"audio_encoders/{AUDIO}": CONTENTS[AUDIO], f"vae/{VAE}": CONTENTS[VAE]}


def test_files_come_into_the_folders_of_the_loaders(fake, models, capsys):
    assert run(models) == 0
    assert files_of(models) == INSTALLED
    assert "all 2 files are in place" in capsys.readouterr().out


def test_second_run_downloads_nothing(fake, models, capsys):
    run(models)
    fake.sent.clear()
    assert run(models) == 0
    assert fake.sent == []
    assert "to download: 0.00 GB" in capsys.readouterr().out


def test_dry_run_needs_no_network_and_writes_nothing(models, monkeypatch, capsys):
    """It failed without a network, though it is for looking first."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    assert download.run(parse("--models-dir", models, "--dry-run")) == 0
    assert files_of(models) == {}
    shown = capsys.readouterr().out
    assert all(file.name in shown for file in select("comfy", None, BY_DEFAULT))
    assert "to download: 25.18 GB\nsizes are rounded" in shown


def test_dry_run_says_that_the_disk_is_too_small(models, monkeypatch, capsys):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: argparse.Namespace(free=10**9))
    assert download.run(parse("--models-dir", models, "--dry-run")) == 1
    shown = capsys.readouterr()
    assert "to download: 25.18 GB" in shown.out
    assert "need 25.18 GB" in shown.err
    assert "only 1.00 GB are free" in shown.err


def test_dry_run_sees_what_is_there(models, monkeypatch, capsys):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    (models / "vae").mkdir()
    (models / "audio_encoders").mkdir()
    (models / "vae" / VAE).write_bytes(b"")
    os.truncate(models / "vae" / VAE, 253_815_318)
    (models / "audio_encoders" / AUDIO).write_bytes(b"a web page")
    (models / "audio_encoders" / f"{AUDIO}.0123abcd.part").write_bytes(b"")
    os.truncate(models / "audio_encoders" / f"{AUDIO}.0123abcd.part", 300_000_000)
    assert run(models, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "vae: in place" in shown
    assert "audio_encoders: to replace, has 0.00 GB instead of 0.63 (0.30 GB of it are there)" in shown
    assert "to download: 0.33 GB" in shown


def test_dry_run_that_verifies_asks_the_hub(fake, models, capsys):
    (models / "vae").mkdir()
    (models / "vae" / VAE).write_bytes(bytes(400_000))
    assert run(models, "--dry-run", "--verify", only="vae") == 0
    assert "to replace, has another hash" in capsys.readouterr().out
    assert fake.sent == []


def test_small_files_are_checked_by_the_hash_of_git(fake, models):
    fake.contents = {"config.json": b'{"a": 1}', "model.safetensors": CONTENTS[AUDIO]}
    assert run(models, "--set", "official", only="audio") == 0
    folder = "audio_encoders/wav2vec2-large-xlsr-53-english"
    assert files_of(models) == {f"{folder}/config.json": b'{"a": 1}', f"{folder}/model.safetensors": CONTENTS[AUDIO]}


def test_connection_cut_in_the_middle_is_continued(fake, models):
    fake.cut = 100_000
    assert run(models, only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": CONTENTS[VAE]}
    assert fake.sent == [(VAE, 0), (VAE, 100_000 // CHUNK_BYTES * CHUNK_BYTES)]


def test_next_run_fetches_only_the_rest(fake, models):
    partial = models / "vae" / f"{VAE}.{hashlib.sha256(CONTENTS[VAE]).hexdigest()[:8]}.part"
    partial.parent.mkdir()
    partial.write_bytes(CONTENTS[VAE][:250_000])
    assert run(models, only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": CONTENTS[VAE]}
    assert fake.sent == [(VAE, 250_000)]


def test_complete_part_is_only_checked(fake, models):
    partial = models / "vae" / f"{VAE}.{hashlib.sha256(CONTENTS[VAE]).hexdigest()[:8]}.part"
    partial.parent.mkdir()
    partial.write_bytes(CONTENTS[VAE])
    assert run(models, only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": CONTENTS[VAE]}
    assert fake.sent == []


def test_wrong_hash_is_refused(fake, models, capsys):
    fake.digests[VAE] = "0" * 64
    assert run(models, only="vae") == 1
    assert files_of(models) == {}
    assert "is not the file that the hub describes" in capsys.readouterr().err


def test_file_of_another_size_is_replaced_only_when_the_new_one_is_right(fake, models, capsys):
    (models / "vae").mkdir()
    (models / "vae" / VAE).write_bytes(b"cut off")
    fake.digests[VAE] = "0" * 64
    assert run(models, only="vae") == 1
    assert files_of(models) == {f"vae/{VAE}": b"cut off"}
    fake.digests.clear()
    assert run(models, only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": CONTENTS[VAE]}
    assert "has 7 bytes instead of 400,000" in capsys.readouterr().out


def test_verify_finds_a_damaged_file_of_the_right_size(fake, models):
    (models / "vae").mkdir()
    (models / "vae" / VAE).write_bytes(bytes(400_000))
    assert run(models, only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": bytes(400_000)}
    assert run(models, "--verify", only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": CONTENTS[VAE]}


def test_full_disk_is_noticed_before(fake, models, capsys):
    fake.sizes[VAE] = 10**15
    assert run(models) == 1
    assert files_of(models) == {}
    message = capsys.readouterr().err
    assert "The files need 1000000.00 GB" in message
    assert "GB are free" in message


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((404, "EntryNotFound"), "has no split_files/vae/wan_2.1_vae.safetensors (any more)"),
        ((404, "RepoNotFound"), "or it is not public"),
        ((403, "GatedRepo"), "set HF_TOKEN to your token"),
        ((500, ""), "could not be fetched"),
        ((200, ""), "gives no size or no hash"),
    ],
)
def test_refusals_of_the_hub_are_explained(fake, models, capsys, status, message):
    fake.status = status
    assert run(models, only="vae") == 1
    assert files_of(models) == {}
    assert message in capsys.readouterr().err


def test_no_connection_is_explained(fake, models, monkeypatch, capsys):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    assert run(models, only="vae") == 1
    assert "set HF_ENDPOINT to a mirror" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "official", "--precision", "fp8"], "The official set has no fp8 file"),
        (["--set", "official", "--only", "lora"], "Use --set comfy"),
        (["--models-dir", "no/such/folder"], "There is no folder"),
        (["--comfyui", "no/such/folder"], "There is no ComfyUI in"),
    ],
)
def test_wrong_choices_are_explained(arguments, message, capsys):
    assert download.run(parse(*arguments)) == 1
    assert message in capsys.readouterr().err


def test_unknown_part_is_a_usage_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse("--only", "audio,video")
    assert "unknown part video" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "status"), [("", 0), ("y", 0), ("n", 1)])
def test_on_a_terminal_it_asks(fake, models, monkeypatch, answer, status):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert download.run(parse("--models-dir", models, "--only", "vae")) == status
    assert len(files_of(models)) == 1 - status


def test_no_answer_on_a_terminal_is_a_no(fake, models, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda _: True})())
    assert download.run(parse("--models-dir", models, "--only", "vae")) == 1
    assert files_of(models) == {}
    assert "Use --yes to download without being asked." in capsys.readouterr().err


def test_without_standard_input_it_does_not_ask(fake, models, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert download.run(parse("--models-dir", models, "--only", "vae")) == 0
    assert files_of(models) == {f"vae/{VAE}": CONTENTS[VAE]}


def block_folder(models, monkeypatch):
    (models / "vae").write_bytes(b"a file in the way")


def block_partial_file(models, monkeypatch):
    (models / "vae" / f"{VAE}.{hashlib.sha256(CONTENTS[VAE]).hexdigest()[:8]}.part").mkdir(parents=True)


def block_name(models, monkeypatch):
    (models / "vae" / VAE).mkdir(parents=True)


def refuse_replacing(models, monkeypatch):
    def replace(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", str(source), None, str(target))

    monkeypatch.setattr(os, "replace", replace)


def fail_while_writing(code):
    def fail(models, monkeypatch):
        def http_get(*_, **__):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(hub, "http_get", http_get)

    return fail


@pytest.mark.parametrize(
    ("prepare", "message", "advice"),
    [
        (block_folder, f"vae cannot be written ({words_for(Path(__file__).mkdir)}).", "Choose another folder with --models-dir."),
        (block_partial_file, f"vae cannot be written ({words_for(lambda: ROOT.open('ab'))}).", "Choose another folder with --models-dir."),
        (block_name, f"{VAE} is a folder, and the file needs its name.", "Move it away"),
        (refuse_replacing, f"{VAE} cannot be read or written (Permission denied).", "Close programs that use it, such as ComfyUI"),
        (fail_while_writing(errno.ENOSPC), f"The disk is full while {VAE} is written.", "Make room"),
        (
            fail_while_writing(errno.EFBIG),
            f"{VAE} cannot be written any further ([Errno 27] File too large).",
            "another disk with --models-dir",
        ),
        (fail_while_writing(errno.ECONNRESET), "could not be fetched", "Check the connection"),
    ],
)
def test_refusals_of_this_machine_are_explained(fake, models, monkeypatch, capsys, prepare, message, advice):
    prepare(models, monkeypatch)
    assert run(models, only="vae") == 1
    error = capsys.readouterr().err
    assert error.startswith("download failed: ")
    assert error.count("\n") == 1
    assert message in error
    assert advice in error


# --- in a process of its own


def start(fake, models):
    environment = {**os.environ, "HF_ENDPOINT": fake.url, "NO_PROXY": "127.0.0.1,localhost"}
    command = [sys.executable, "-m", "cli", "download", "--models-dir", str(models), "--only", "vae"]
    return start_and_heed(command, ROOT, environment)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_interrupted_leaves_no_file_and_goes_on_where_it_stopped(fake, models):
    """Also shows that HF_ENDPOINT names the hub."""
    fake.contents[VAE] = CONTENTS[VAE] * 50
    fake.stall = len(fake.contents[VAE]) * 3 // 4
    process = start(fake, models)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in models.rglob("*.part")):
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "download interrupted" in errors
    (partial,) = files_of(models)
    assert partial.startswith(f"vae/{VAE}.")
    have = len(files_of(models)[partial])

    fake.sent.clear()
    assert run(models, only="vae") == 0
    assert files_of(models) == {f"vae/{VAE}": fake.contents[VAE]}
    assert fake.sent[-1] == (VAE, have)


# --- the table


def test_every_set_has_a_file_for_every_part():
    needed = {name for name, part in PARTS.items() if part.needed}
    for file_set, precision in (("comfy", "bf16"), ("comfy", "fp8"), ("official", "bf16")):
        assert {file.part for file in select(file_set, precision, tuple(PARTS))} >= needed


def test_without_options_the_files_that_the_templates_name():
    options = parse("--models-dir", "models")
    assert [file.name for file in select(options.set, options.precision, options.only)] == [
        "wan2.2_s2v_14B_fp8_scaled.safetensors",
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "wav2vec2_large_english_fp16.safetensors",
        "wan_2.1_vae.safetensors",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
    ]


def test_names_are_unique_and_kept_by_the_single_files():
    files = [file for files in FILES.values() for file in files]
    assert all(by_name(file.name) is file for file in files)
    assert all(file.path.endswith(f"/{file.folder}/{file.name}") for file in FILES["comfy"] if file.part != "live")
    assert all(file.url == f"https://huggingface.co/{file.repository}/resolve/main/{file.path}" for file in files)


def test_quick_start_workflow_uses_the_default_choice():
    prompt = json.loads((ROOT / "cli" / "workflows" / "quick_start.json").read_text(encoding="utf-8"))
    used = {value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, str)}
    exact = select("comfy", "bf16", tuple(name for name, part in PARTS.items() if part.needed))
    assert {file.name for file in exact} <= used
