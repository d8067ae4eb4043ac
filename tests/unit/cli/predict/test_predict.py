"""The command `predict`: its options, and the exit status and JSON of each way it can end. The server is in tests/integration."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli import predict
from wan_s2v_pack.cli.comfyui.client import ComfyError, NoAnswer, OutputFile, PromptFailed, PromptInterrupted, PromptRefused
from wan_s2v_pack.cli.comfyui.server import ServerError
from wan_s2v_pack.cli.models.folders import FolderError
from wan_s2v_pack.cli.predict import connection, job
from wan_s2v_pack.cli.predict.graph import ALL_GPUS, AUDIO, MODEL, PREPARE, SAMPLER, TEXT, VAE, Lora, quick_start
from wan_s2v_pack.cli.predict.object_info import PackMissing, PromptError
from wan_s2v_pack.cli.predict.options import PICTURE, SOUND, request_from
from wan_s2v_pack.tests.systems import from_checkout, words_for
from wan_s2v_pack.wan_s2v_model.runs.changes import NEW_TAKE, REDO, STOP

ROOT = Path(__file__).resolve().parents[4]


def make_parser():
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers())
    return parser


def parse(*arguments):
    return make_parser().parse_args(["predict", *arguments])


def request(*arguments):
    return request_from(parse(*arguments))


# --- options


def test_without_options_the_samples_and_the_quick_start():
    found = request()
    assert (found.image, found.audio, found.pose, found.video) == (PICTURE, SOUND, None, None)
    assert PICTURE.is_file()
    assert SOUND.is_file()
    assert (found.inputs, found.files, found.suffix) == ({}, {}, "mp4")


def test_defaults_of_the_original_command():
    prompt = quick_start()
    inputs = {**prompt["9"]["inputs"], **prompt["11"]["inputs"]}
    assert {name: inputs[name] for name in ("steps", "cfg", "frames_per_clip", "seed", "size")} == {
        "steps": 40,
        "cfg": 4.5,
        "frames_per_clip": 80,
        "seed": 42,
        "size": "480P",
    }


def test_every_setting_reaches_its_input():
    found = request(
        *("--prompt", "a", "--negative", "b", "--steps", "10", "--guidance", "3.5", "--frames", "48", "--seed", "7"),
        *("--start", "1.5", "--duration", "2", "--run-name", "mine", "--redo-from-clip", "3"),
        *("--if-changed", "redo"),
        *("--size", "720p", "--no-offload"),
    )
    assert found.inputs == {
        TEXT: {"offload": False},
        MODEL: {"offload": False},
        AUDIO: {"offload": False},
        VAE: {"offload": False},
        "WanS2VTextEncode": {"prompt": "a", "negative_prompt": "b"},
        "WanS2VAudioEncode": {"start": 1.5, "duration": 2.0},
        PREPARE: {"frames_per_clip": 48, "size": "720P"},
        SAMPLER: {"steps": 10, "cfg": 3.5, "seed": 7, "run_name": "mine", "redo_from_clip": 3, "if_changed": REDO},
    }


@pytest.mark.parametrize(("text", "choice"), [("new-take", NEW_TAKE), ("stop", STOP), ("redo", REDO)])
def test_choices_for_a_changed_run(text, choice):
    assert request("--if-changed", text).inputs == {SAMPLER: {"if_changed": choice}}


def test_empty_text_is_a_wish_too():
    assert request("--negative", "").inputs == {"WanS2VTextEncode": {"negative_prompt": ""}}


def test_files_and_loras():
    found = request("--vae", "v.pth", "--text-encoder", "t.pth", "--lora", "a.safetensors", "--lora", "dir/b.safetensors:-0.5", "--fast")
    assert found.files == {"vae": "v.pth", "text": "t.pth"}
    assert found.loras == [Lora("a.safetensors", 1.0), Lora("dir/b.safetensors", -0.5)]
    assert found.fast


def test_number_of_gpus():
    assert [request(*arguments).gpus for arguments in ([], ["--gpus", "4"], ["--gpus", "all"])] == [1, 4, ALL_GPUS]


def test_exact_size():
    assert request("--size", "832X480").inputs == {PREPARE: {"size": "custom", "size.width": 832, "size.height": 480}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "900p"], "must be 480p, 720p or WxH such as 832x480, got '900p'"),
        (["--size", "830x480"], "sides must be multiples of 16 from 64 to 2048, got 830x480"),
        (["--size", "64x4096"], "sides must be multiples of 16 from 64 to 2048, got 64x4096"),
        (["--frames", "50"], "must be a multiple of 4 from 4 to 120, got 50"),
        (["--gpus", "0"], "must be a number or all, got 0"),
        (["--gpus", "many"], "must be a number or all, got many"),
        (["--frames", "0"], "must be a multiple of 4 from 4 to 120, got 0"),
        (["--steps", "ten"], "invalid int value: 'ten'"),
        (["--image", "nothing.png"], "there is no file nothing.png"),
        (["--output", "video"], "must be the name of a file such as outputs/output.mp4, got 'video'"),
        (["--output", "."], "must be the name of a file"),
        (["--lora", "a.safetensors:strong"], "must be NAME or NAME:STRENGTH with a number, got 'a.safetensors:strong'"),
        (["--if-changed", "ask"], "must be one of new-take, stop, redo, got 'ask'"),
        (["--set", "steps=3"], "must be NODE.INPUT=VALUE, got 'steps=3'"),
    ],
)
def test_wrong_option(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("text", "url"), [("127.0.0.1:8188", "http://127.0.0.1:8188"), ("https://gpu:1", "https://gpu:1")])
def test_address(text, url):
    assert parse("--server", text).server == url


# --- how it ends


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Stands for the server; `server(error)` makes the job end with it."""

    class Client:
        url = "http://127.0.0.1:1"

        def download(self, file, destination):
            destination.write_bytes(b"video")

    @contextmanager
    def connect(_options, _say):
        yield Client()

    def end_with(error=None, *, client=Client):
        def make_video(_client, _request, _say):
            if error is not None:
                raise error
            return job.Made(OutputFile("a.mp4", "video", "output"), quick_start(), "some-id", 1.25)

        monkeypatch.setattr(job, "make_video", make_video)
        monkeypatch.setattr(connection, "connect", connect)

    end_with.client = Client
    monkeypatch.chdir(tmp_path)
    return end_with


def outcome(capsys, *arguments):
    code = predict.run(parse("--json", *arguments))
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    assert printed["exit_code"] == code
    return code, printed, captured.err


NODE = {"node_id": "11", "node_type": SAMPLER}
ENDINGS = [
    (PromptFailed("out of memory", kind="RuntimeError", **NODE), 1, "failed"),
    (ComfyError("the connection broke"), 1, "failed"),
    (NoAnswer("does not answer"), 3, "no server"),
    (ServerError("did not start"), 3, "no server"),
    (FolderError("not found"), 3, "no server"),
    (PackMissing("no node"), 3, "no server"),
    (PromptRefused("value not in list", kind="value_not_in_list", **NODE), 4, "refused"),
    (PromptError("model files are missing"), 4, "refused"),
    (PromptInterrupted("The prompt was cancelled.", **NODE), 5, "cancelled"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize(("error", "code", "status"), ENDINGS, ids=[type(error).__name__ for error, *_ in ENDINGS])
def test_ending_without_a_video(error, code, status, server, capsys):
    server(error)
    found, printed, said = outcome(capsys)
    assert (found, printed["status"]) == (code, status)
    assert said == f"predict {status}: {printed['error']}\n"
    assert str(error) in printed["error"]
    if getattr(error, "node_type", ""):
        assert (printed["node_id"], printed["node_type"]) == ("11", SAMPLER)


def test_help_and_page_list_every_exit_code():
    codes = [str(code) for code in (*predict.STATUS, 2)]
    listed = re.findall(r"^  (\d+) ", predict.EXIT_CODES, re.MULTILINE)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\d+)` \| (?:`(.*?)` )?\|", page, re.MULTILINE))
    assert sorted(listed) == sorted(codes) == sorted(rows)
    assert {code: status for code, status in rows.items() if status} == {str(code): status for code, status in predict.STATUS.items()}


def test_page_lists_every_option():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    table = page.split("| Option | Default | |")[1].split("\n\n")[0]
    flags = {flag for line in table.splitlines() for flag in re.findall(r"`(--[\w-]+)`", line.split("|")[1] if "|" in line else "")}
    actions = make_parser()._subparsers._group_actions[0].choices["predict"]._actions
    assert flags == {action.option_strings[-1] for action in actions} - {"--help"}


def test_video(server, capsys, tmp_path):
    server()
    code, printed, said = outcome(capsys)
    assert (code, said) == (0, "")
    video = tmp_path / "outputs" / "output.mp4"
    assert video.read_bytes() == b"video"
    assert printed == {
        "status": "done",
        "exit_code": 0,
        "video": str(video),
        "bytes": 5,
        "seconds": 1.25,
        "seed": 42,
        "prompt_id": "some-id",
        "server": "http://127.0.0.1:1",
        "server_file": "video/a.mp4",
    }


def test_without_json_one_line(server, capsys, tmp_path):
    server()
    assert predict.run(parse("--output", "talk.mp4")) == 0
    assert capsys.readouterr().out == f"video made in 1.2 s: {tmp_path / 'talk.mp4'}\n"


def test_interrupted_run_with_a_name_says_how_to_go_on(server, capsys):
    server(KeyboardInterrupt())
    assert "Finished clips of mine are kept; the same command continues there." in outcome(capsys, "--run-name", "mine")[1]["error"]


def test_folder_that_cannot_be_made(server, capsys, tmp_path):
    server()
    (tmp_path / "file").write_text("")
    code, printed, _ = outcome(capsys, "--output", "file/talk.mp4")
    assert (code, printed["error"]) == (1, f"file cannot be used: {words_for(Path(__file__).mkdir)}.")


@pytest.mark.parametrize("obstacle", ["folder", "file", "name"])
def test_video_that_cannot_be_written_is_noticed_before_anything_is_made(obstacle, capsys, monkeypatch, tmp_path):
    """It was noticed when the video was there, after hours."""
    name = f"{'x' * 300}.mp4" if obstacle == "name" else "talk.mp4"
    if obstacle == "file":
        (tmp_path / name).write_bytes(b"older")
        monkeypatch.setattr(job.os, "access", lambda path, _mode: path != tmp_path / name)  # root may write everything
    if obstacle == "folder":
        monkeypatch.setattr(Path, "touch", Mock(side_effect=PermissionError(13, "Permission denied", str(tmp_path / f"{name}.part"))))
    monkeypatch.setattr(connection, "connect", Mock(side_effect=AssertionError("it began")))
    code, printed, _ = outcome(capsys, "--output", str(tmp_path / name))
    too_long = words_for((tmp_path / f"{'x' * 300}.mp4").touch)
    reason = {"folder": "Permission denied", "file": "it is write-protected", "name": too_long}[obstacle]
    assert (code, printed["status"]) == (1, "failed")
    assert printed["error"].startswith(str(tmp_path / name)[:250])
    assert printed["error"].endswith(f" cannot be used: {reason}.")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([b"older"] if obstacle == "file" else [])


def test_video_that_cannot_be_written_is_still_on_the_server(server, capsys, monkeypatch):
    def full_disk(_self, _file, _destination):
        raise OSError(28, "No space left on device")

    server()
    monkeypatch.setattr(server.client, "download", full_disk)
    code, printed, _ = outcome(capsys, "--output", "talk.mp4")
    assert code == 1
    assert printed["error"] == (
        "talk.mp4 cannot be written: No space left on device. The video lies in the server's output folder as video/a.mp4."
    )


def test_signals_do_as_ctrl_c_and_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), predict.interrupted_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with SIGHUP
    try:
        with predict.interrupted_by_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_python_without_the_packages_of_comfyui(tmp_path):
    """It ended with a traceback: the errors stood in a module that needs aiohttp."""
    lacking = (
        "import sys; sys.modules.update(aiohttp=None, requests=None, tqdm=None); from cli.__main__ import main; sys.exit(main(['predict']))"
    )
    done = subprocess.run(from_checkout(lacking), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r"predict no server: import of \w+ halted.*\. Use the Python that runs ComfyUI, which has it\.\n", done.stderr)


# --- a server of its own


def test_no_comfyui_anywhere(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "find_comfyui", lambda _given: None)
    code, printed, _ = outcome(capsys)
    assert code == 3
    assert "No ComfyUI was found that could be started. Name a running one with --server" in printed["error"]


def test_comfyui_that_does_not_start(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "has_accelerator", lambda: False)
    (tmp_path / "models").mkdir()
    (tmp_path / "main.py").write_text("raise SystemExit('out of luck')")
    (tmp_path / "folder_paths.py").write_text("")
    code, printed, _ = outcome(capsys, "--comfyui", str(tmp_path))
    assert code == 3
    assert "out of luck" in printed["error"]
    assert list((tmp_path / "output").iterdir()) == []


# --- cancelling


class Told:
    """A client that notes what it is told; `ending` is what waiting for the end gives."""

    def __init__(self, ending):
        self.ending = ending
        self.interrupted = []

    def interrupt(self, prompt_id):
        self.interrupted.append(prompt_id)

    def wait(self, _prompt_id, **_options):
        raise self.ending


@pytest.mark.parametrize(
    ("ending", "last"),
    [
        (PromptInterrupted("cancelled"), "cancelling the job on the server; press Ctrl-C again to leave without waiting"),
        (TimeoutError(), "the job ends on the server with its present step"),
    ],
    ids=["at once", "later"],
)
def test_cancel(ending, last):
    said, client = [], Told(ending)
    job.cancel(client, "some-id", said.append)
    assert (client.interrupted, said[-1]) == (["some-id"], last)


def test_cancel_without_a_server(monkeypatch):
    said, client = [], Told(None)

    def gone(_prompt_id):
        raise NoAnswer("does not answer")

    monkeypatch.setattr(client, "interrupt", gone)
    job.cancel(client, "some-id", said.append)
    assert said[-1] == "the job could not be cancelled: does not answer"
