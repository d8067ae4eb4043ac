"""The client against a server that misbehaves; the real one is in tests/integration."""

from __future__ import annotations

import http.server
import threading

import pytest
from wan_s2v_pack.cli.comfyui import client as client_module
from wan_s2v_pack.cli.comfyui import following
from wan_s2v_pack.cli.comfyui.address import login
from wan_s2v_pack.cli.comfyui.client import ComfyClient, ComfyError, NoAnswer, OutputFile, PromptInterrupted, PromptRefused, Stage, Text
from wan_s2v_pack.cli.comfyui.errors import Unavailable
from wan_s2v_pack.cli.comfyui.server import free_port
from wan_s2v_pack.tests.fake_comfyui import DONE, FILE, HANG_UP_AFTER, JOB, Server, serving
from wan_s2v_pack.tests.fake_gateway import Gateway


@pytest.fixture
def server():
    with serving(Server()) as server:
        yield server


@pytest.fixture
def client(server):
    return ComfyClient(server.url)


def test_lost_connection_is_made_again(server, client):
    server.queue["queue_running"] = [[0, JOB]]
    server.record_after = HANG_UP_AFTER
    stages = []
    assert client.wait(JOB, on_stage=stages.append) == DONE["outputs"]
    assert server.asked["/ws"] == HANG_UP_AFTER
    assert stages == [Stage("11")]


def test_the_server_is_listened_to_before_the_prompt_is_queued_and_it_is_queued_once(server, client):
    server.queue["queue_running"] = [[0, JOB]]
    server.record_after = HANG_UP_AFTER
    stages, texts = [], []
    assert client.run({}, on_stage=stages.append, on_text=texts.append, prompt_id=JOB) == DONE["outputs"]
    assert (server.connections_when_queued, server.asked["/ws"]) == ([1], HANG_UP_AFTER)
    assert (stages, texts) == ([Stage("11")], [Text("11", "step 1 of 2 …")])


def test_place_in_the_queue_is_told_in_the_order_of_the_numbers(server, client):
    server.queue = {"queue_running": [[0, "a"]], "queue_pending": [[3, JOB], [1, "b"], [2, "c"]]}
    server.record_after = HANG_UP_AFTER
    stages = []
    client.wait(JOB, on_stage=stages.append)
    assert stages[0] == Stage(jobs_before=3)


def test_prompt_that_is_nowhere_was_cancelled(client):
    with pytest.raises(PromptInterrupted, match="no longer in the queue"):
        client.wait(JOB)


def test_upload(server, client, tmp_path):
    (tmp_path / "me.wav").write_bytes(b"sound")
    assert client.upload(tmp_path / "me.wav") == "deep/me.wav (1)"
    assert server.uploads == [{"type": "input", "bytes": b"sound"}], "nothing may ask to overwrite another file"


def test_upload_that_is_too_large_is_not_tried(server, client, tmp_path):
    server.upload_limit = 3 * 2**20
    (tmp_path / "me.wav").write_bytes(bytes(5 * 2**20))
    with pytest.raises(PromptRefused, match=r"me\.wav has 5 MB, but the server takes at most 3 MB\. Start ComfyUI with a larger --max-up"):
        client.upload(tmp_path / "me.wav")
    assert server.asked["/upload/image"] == 0


def test_download_replaces_an_older_file(client, tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"older")
    assert client.download(FILE, tmp_path / "v.mp4").read_bytes() == b"x" * 100
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize(
    ("change", "file", "message"),
    [
        ({"truncate": True}, FILE, r"video/a b\.mp4 could not be fetched whole: .+\. It lies in the server's output folder"),
        ({}, OutputFile("gone.mp4", "", "output"), r"ComfyUI answered /view.* with status 404"),
    ],
    ids=["broken connection", "no such file"],
)
def test_download_that_fails_keeps_the_older_file(change, file, message, server, client, tmp_path):
    vars(server).update(change)
    (tmp_path / "v.mp4").write_bytes(b"older")
    with pytest.raises(ComfyError, match=message):
        client.download(file, tmp_path / "v.mp4")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_queue_with_an_id_of_ours(client):
    assert client.queue({}, prompt_id=JOB) == JOB


def test_no_server(tmp_path):
    client = ComfyClient(f"http://127.0.0.1:{free_port()}")
    for call in (client.object_info, lambda: client.download(FILE, tmp_path / "v.mp4")):
        with pytest.raises(NoAnswer, match="does not answer"):
            call()


@pytest.fixture
def other_service():
    """Serves `answer`, a status and a body, whatever it is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = self.server.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_what_others_have_queued_takes_no_command_away(other_service):
    """ComfyUI repeats the prompts that it got, and takes numbers without end in them."""
    other_service.answer = (200, b'{"queue_running": [[0, "a", {"1": {"inputs": {"start": -Infinity}}}]], "queue_pending": []}')
    client = ComfyClient(f"http://127.0.0.1:{other_service.server_port}")
    assert client.queue_state() == (["a"], [])
    other_service.answer = (200, b'{"a": {"prompt": [NaN], "status": {}}}')
    assert client.history("a")["status"] == {}


@pytest.mark.parametrize("answer", [(404, b'{"detail": "Not Found"}'), (404, b"no such page"), (200, b"<html>Log in</html>")])
def test_another_service_at_the_address(other_service, answer):
    other_service.answer = answer
    client = ComfyClient(f"http://127.0.0.1:{other_service.server_port}")
    with pytest.raises(NoAnswer, match=r"is not ComfyUI.*Is the address right\?"):
        client.object_info()
    with pytest.raises(ComfyError, match=r"is not ComfyUI|answered /prompt with status"):
        client.queue({})


@pytest.mark.parametrize("answer", [(500, b"[1]"), (505, b"no"), (500, b'{"detail": "broken node"}')])
def test_server_in_trouble(other_service, answer):
    other_service.answer = answer
    with pytest.raises(ComfyError, match=f"answered /object_info with status {answer[0]}. Look at the server's log.") as caught:
        ComfyClient(f"http://127.0.0.1:{other_service.server_port}").object_info()
    assert not isinstance(caught.value, NoAnswer)


# --- behind a proxy


@pytest.fixture
def gateway(monkeypatch):
    monkeypatch.setattr(client_module, "RETRY_S", 0.01)
    monkeypatch.setattr(following, "QUIET_CHECK_S", 0.05)
    with serving(Gateway()) as gateway:
        gateway.record_after = HANG_UP_AFTER
        yield gateway


@pytest.fixture
def patient(gateway):
    return ComfyClient(gateway.url, patience_s=10)


def test_file_in_chunks_says_no_length(gateway, patient, tmp_path):
    """The download ended with a TypeError, after hours of sampling."""
    gateway.chunked = True
    assert patient.download(FILE, tmp_path / "v.mp4").read_bytes() == b"x" * 100


def test_bad_gateways_while_a_prompt_runs(gateway, patient, tmp_path):
    """One of them ended the command, and the result of the job was never fetched."""
    gateway.outages = {"/history": [502, 503, 404, 200], "/queue": [504, 500], "/view": [502, 429, 200], "/upload": [524]}
    gateway.record_after = 8
    (tmp_path / "me.wav").write_bytes(b"sound")
    assert patient.upload(tmp_path / "me.wav") == "deep/me.wav (1)"
    stages = []
    assert patient.run({}, prompt_id=JOB, on_stage=stages.append) == DONE["outputs"]
    assert Stage(words="the server does not answer; trying again") in stages
    assert patient.download(FILE, tmp_path / "v.mp4").read_bytes() == b"x" * 100


def test_patience_ends(gateway, tmp_path):
    gateway.outages = {"/": [502] * 1000}
    impatient = ComfyClient(gateway.url, patience_s=0.2)
    for call in (lambda: impatient.run({}, prompt_id=JOB), lambda: impatient.download(FILE, tmp_path / "v.mp4")):
        with pytest.raises(Unavailable, match=r"Something at .* answers, but cannot reach ComfyUI behind it now \(status 502\)"):
            call()


@pytest.mark.parametrize("lost", [[], ["/prompt"]], ids=["did not arrive", "arrived"])
def test_prompt_whose_answer_is_lost_is_queued_once(lost, gateway, patient):
    gateway.lost, gateway.outages = lost, {} if lost else {"/prompt": [502]}
    assert patient.run({}, prompt_id=JOB) == DONE["outputs"]
    assert gateway.queue["queue_running"] == [[0, JOB]]


def test_without_websockets_the_history_is_asked(gateway, patient):
    gateway.websockets = False
    stages = []
    assert patient.run({}, prompt_id=JOB, on_stage=stages.append) == DONE["outputs"]
    assert set(stages) == {Stage(words="running; its steps are not shown, as no websocket gets through")}
    assert len(gateway.connections_when_queued) == 1


def test_websocket_that_hangs_is_given_up(gateway, patient, monkeypatch):
    monkeypatch.setattr(following, "CONNECT_TIMEOUT_S", 0.1)
    gateway.hangs_s = 1
    assert patient.run({}, prompt_id=JOB) == DONE["outputs"]
    assert (gateway.asked["/ws"] > 1, gateway.lets_in) == (True, [])


def test_download_that_breaks_is_begun_again(gateway, patient, tmp_path, monkeypatch):
    gateway.truncate = True

    def mend(_seconds):
        gateway.truncate = False

    monkeypatch.setattr(client_module.time, "sleep", mend)
    assert patient.download(FILE, tmp_path / "v.mp4").read_bytes() == b"x" * 100


def test_page_of_a_login_is_no_video(gateway, tmp_path):
    gateway.answer = 200, {"Content-Type": "text/html"}, b"<html>Your session has ended</html>"
    with pytest.raises(NoAnswer, match=r"is not ComfyUI\. .* It shows a web page with status 200: is there a login in between\?"):
        ComfyClient(gateway.url).download(FILE, tmp_path / "v.mp4")
    assert not (tmp_path / "v.mp4").exists()


@pytest.mark.parametrize("way", ["in the address", "as a header"])
def test_login(way, gateway):
    gateway.login = "Basic bWU6c2VjcmV0OndvcmQ="
    address = gateway.url.replace("http://", "http://me:secret%3Aword@") if way == "in the address" else gateway.url
    client = ComfyClient(address, login("me:secret:word") if way == "as a header" else ())
    assert client.url == gateway.url
    assert client.run({}, prompt_id=JOB) == DONE["outputs"]
    assert {headers["Authorization"] for headers in gateway.lets_in} == {gateway.login}
