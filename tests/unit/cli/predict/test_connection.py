"""The whole command against a ComfyUI behind a proxy."""

from __future__ import annotations

import argparse
import json

import pytest
from wan_s2v_pack.cli import predict
from wan_s2v_pack.cli.comfyui import client, following
from wan_s2v_pack.cli.predict import connection
from wan_s2v_pack.tests.fake_comfyui import serving
from wan_s2v_pack.tests.fake_gateway import Gateway

LOGIN = "Basic bWU6c2VjcmV0"  # me:secret


@pytest.fixture
def gateway(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "RETRY_S", 0.01)
    monkeypatch.setattr(following, "QUIET_CHECK_S", 0.05)
    monkeypatch.chdir(tmp_path)
    with serving(Gateway()) as gateway:
        gateway.upload_limit, gateway.record_after = 2**30, 2
        yield gateway


@pytest.fixture
def run(gateway, capsys):
    """Run the command; return its exit status, its JSON and all that it printed."""

    def run(*arguments, url=None):
        parser = argparse.ArgumentParser()
        predict.add_parser(parser.add_subparsers())
        code = predict.run(parser.parse_args(["predict", "--json", "--server", url or gateway.url, *arguments]))
        captured = capsys.readouterr()
        return code, json.loads(captured.out), captured.out + captured.err

    return run


def test_proxy_with_all_its_habits(gateway, run, tmp_path):
    """A login, no websockets, bad gateways at every stage, an answer in chunks: the video is there, and the password nowhere."""
    gateway.login, gateway.websockets, gateway.chunked, gateway.record_after = LOGIN, False, True, 8
    gateway.outages = {"/upload": [502], "/prompt": [504], "/history": [503, 502], "/queue": [502], "/view": [502]}
    code, outcome, printed = run("--auth", "me:secret", "--output", "talk.mp4")
    assert code == 0, outcome
    assert (tmp_path / "talk.mp4").read_bytes() == b"x" * 100
    assert "running; its steps are not shown, as no websocket gets through" in printed
    assert "secret" not in printed
    assert LOGIN not in printed


@pytest.mark.parametrize(
    ("arguments", "in_address"),
    [(["--auth", "me:secret"], ""), (["--header", f"Authorization: {LOGIN}"], ""), ([], "me:secret@")],
    ids=["auth", "header", "address"],
)
@pytest.mark.parametrize("known", [True, False])
def test_login_is_sent_and_never_printed(known, arguments, in_address, gateway, run):
    """The password in the address stood in every message and in the JSON."""
    gateway.login = LOGIN if known else "Basic other"
    code, outcome, printed = run(*arguments, url=gateway.url.replace("http://", f"http://{in_address}"))
    assert code == (0 if known else 3), outcome
    assert "secret" not in printed
    assert LOGIN not in printed
    assert known or "does not accept the given one (status 401)" in outcome["error"]


def test_login_that_ends_while_the_job_runs(gateway, run):
    gateway.outages = {"/history": [401]}
    code, outcome, _ = run()
    assert code == 3
    assert outcome["error"].endswith("A job that is queued goes on there: the same command fetches its video later.")
    assert run()[0] == 0


def test_headers_of_a_file(gateway, run, tmp_path):
    gateway.login = "Bearer secret"
    (tmp_path / "headers.txt").write_text("Authorization: Bearer secret\n\nX-Other: 1\n")
    assert run("--header", "@headers.txt")[0] == 0


def test_file_that_the_proxy_does_not_take(gateway, run):
    gateway.outages = {"/upload": [413]}
    code, outcome, _ = run()
    assert code == 4
    assert "MB (status 413). Raise the limit of what stands in front of ComfyUI" in outcome["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--auth", "secret"], "must be USER:PASSWORD"),
        (["--header", "secret"], "must be 'NAME: VALUE'"),
        (["--header", "X-Token: secret\nX: y"], "must be 'NAME: VALUE'"),
        (["--header", "X-Token: secr\u00e9t"], "must be 'NAME: VALUE'"),
        (["--header", "@gone"], "the file gone cannot be read (No such file or directory)"),
        (["--server", "http://host/?token=secret"], "must be an address such as http://127.0.0.1:8188, with nothing behind the path"),
        (["--server", "http://me:sec/ret@host"], "must be an address such as"),
        (["--server", "ftp://host"], "must be an address such as"),
    ],
)
def test_wrong_option_is_refused_without_repeating_it(arguments, message, run, capsys):
    with pytest.raises(SystemExit):
        run(*arguments)
    said = capsys.readouterr().err
    assert message in said
    assert "secr" not in said


def test_login_without_a_server(capsys):
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers())
    assert predict.run(parser.parse_args(["predict", "--auth", "me:secret"])) == 4
    assert "--auth and --header are for --server" in capsys.readouterr().err


def test_a_server_of_its_own_gets_further_packs(tmp_path, monkeypatch):
    """Guards `doctor --compare`, whose node is such a pack."""
    pack = tmp_path / "calls"
    pack.mkdir()
    (pack / "__init__.py").write_text("calls")
    monkeypatch.setattr(connection, "has_accelerator", lambda: False)
    server = connection.make_server(tmp_path / "comfyui", tmp_path / "base", tmp_path / "models", tmp_path / "output", [pack])
    packs = server.base_directory / "custom_nodes"
    assert sorted(path.name for path in packs.iterdir()) == ["wan_s2v", "wan_s2v_calls"]
    assert (packs / "wan_s2v_calls" / "__init__.py").read_text() == "calls"  # a link, or a copy where none can be made
    assert "--cpu" in server.command()
