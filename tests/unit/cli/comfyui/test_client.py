"""The client against a server that misbehaves; the real one is in tests/integration."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from aiohttp import WSCloseCode, web
from wan_s2v_pack.cli.comfyui.client import ComfyClient, ComfyError, NoAnswer, OutputFile, PromptInterrupted, PromptRefused, Stage
from wan_s2v_pack.cli.comfyui.server import free_port

JOB = "00000000-0000-0000-0000-000000000001"
FILE = OutputFile("a b.mp4", "video", "output")
DONE = {"status": {"messages": []}, "outputs": {"12": {}}}
HANG_UP_AFTER = 3


class Server:
    """What a test sets here is what the server answers; `asked` counts the requests by path."""

    def __init__(self):
        self.url = f"http://127.0.0.1:{free_port()}"
        self.asked = Counter()
        self.upload_limit = 2**20
        self.uploads = []
        self.queue = {"queue_running": [], "queue_pending": []}
        self.record_after = 10**9  # looks at the history
        self.truncate = False
        self.connections_when_queued = []

    def application(self):
        application = web.Application(middlewares=[self.count])
        application.add_routes(
            [
                web.get("/features", self.features),
                web.get("/queue", self.show_queue),
                web.get("/history/{id}", self.history),
                web.get("/ws", self.socket),
                web.get("/view", self.view),
                web.post("/upload/image", self.upload),
                web.post("/prompt", self.prompt),
            ]
        )
        return application

    @web.middleware
    async def count(self, request, handler):
        self.asked[request.path] += 1
        return await handler(request)

    async def features(self, _request):
        return web.json_response({"max_upload_size": self.upload_limit})

    async def show_queue(self, _request):
        return web.json_response(self.queue)

    async def history(self, request):
        finished = self.asked[request.path] > self.record_after
        return web.json_response({JOB: DONE} if finished else {})

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.asked["/ws"] < HANG_UP_AFTER:
            await socket.close(code=WSCloseCode.GOING_AWAY)
        else:
            await socket.send_str(json.dumps({"type": "executing", "data": {"node": "11", "prompt_id": JOB}}))
            await socket.send_str(json.dumps({"type": "executing", "data": {"node": None, "prompt_id": JOB}}))
            await asyncio.sleep(0.2)
        return socket

    async def view(self, request):
        if request.query["filename"] != FILE.filename:
            raise web.HTTPNotFound
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"x" * (50 if self.truncate else 100))
        if self.truncate:
            request.transport.close()
        return response

    async def prompt(self, request):
        self.connections_when_queued.append(self.asked["/ws"])
        return web.json_response({"prompt_id": (await request.json())["prompt_id"], "node_errors": {}})

    async def upload(self, request):
        form = await request.post()
        self.uploads.append({key: value for key, value in form.items() if key != "image"} | {"bytes": form["image"].file.read()})
        return web.json_response({"name": f"{form['image'].filename} (1)", "subfolder": "deep"})


@pytest.fixture
def server():
    """Runs in a thread of its own."""
    server, loop = Server(), asyncio.new_event_loop()
    runner = web.AppRunner(server.application())
    ready = threading.Event()

    def serve():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", int(server.url.rsplit(":", 1)[1])).start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    ready.wait(10)
    yield server
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


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
    stages = []
    assert client.run({}, on_stage=stages.append, prompt_id=JOB) == DONE["outputs"]
    assert (server.connections_when_queued, server.asked["/ws"]) == ([1], HANG_UP_AFTER)
    assert stages == [Stage("11")]


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


def test_queue_with_an_id_of_ours(client, monkeypatch):
    sent = SimpleNamespace(body=None)

    def post(_path, body):
        sent.body = body
        return {"prompt_id": JOB, "node_errors": {}}

    monkeypatch.setattr(client, "_post", post)
    assert client.queue({}, prompt_id=JOB) == JOB
    assert sent.body["prompt_id"] == JOB


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


@pytest.mark.parametrize("answer", [(404, b'{"detail": "Not Found"}'), (404, b"no such page"), (200, b"<html>Log in</html>")])
def test_another_service_at_the_address(other_service, answer):
    other_service.answer = answer
    client = ComfyClient(f"http://127.0.0.1:{other_service.server_port}")
    with pytest.raises(NoAnswer, match=r"is not ComfyUI.*Is the address right\?"):
        client.object_info()
    with pytest.raises(ComfyError, match=r"is not ComfyUI|answered /prompt with status"):
        client.queue({})


@pytest.mark.parametrize("answer", [(500, b"[1]"), (502, b"bad gateway"), (500, b'{"detail": "broken node"}')])
def test_server_in_trouble(other_service, answer):
    other_service.answer = answer
    with pytest.raises(ComfyError, match=f"answered /object_info with status {answer[0]}. Look at the server's log.") as caught:
        ComfyClient(f"http://127.0.0.1:{other_service.server_port}").object_info()
    assert not isinstance(caught.value, NoAnswer)
