"""A ComfyUI of our own on loopback, which misbehaves as a test wants; the real one is in tests/integration."""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import WSCloseCode, web
from wan_s2v_pack.cli.comfyui.client import OutputFile
from wan_s2v_pack.cli.comfyui.server import free_port
from wan_s2v_pack.cli.predict.graph import quick_start

JOB = "00000000-0000-0000-0000-000000000001"
FILE = OutputFile("a b.mp4", "video", "output")
DONE = {"status": {"messages": []}, "outputs": {"12": {"images": [{"filename": "a b.mp4", "subfolder": "video", "type": "output"}]}}}
INTERRUPTED = {
    "status": {"status_str": "error", "messages": [["execution_interrupted", {"node_id": "11", "node_type": "WanS2VSampler"}]]},
    "outputs": {},
}
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
        self.interrupted = set()
        self.truncate = False
        self.connections_when_queued = []

    def application(self):
        application = web.Application(middlewares=[self.count])
        application.add_routes(
            [
                web.get("/object_info", self.object_info),
                web.get("/features", self.features),
                web.get("/queue", self.show_queue),
                web.post("/queue", self.leave),
                web.post("/interrupt", self.interrupt),
                web.post("/history", self.leave),
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

    async def object_info(self, _request):
        """The nodes of the quick start, each with the inputs and the choices that the quick start needs."""
        nodes = {node["class_type"]: node["inputs"] for node in quick_start().values()}
        return web.json_response(
            {name: {"input": {"required": {key: [[value], {}] for key, value in inputs.items()}}} for name, inputs in nodes.items()}
        )

    async def features(self, _request):
        return web.json_response({"max_upload_size": self.upload_limit})

    async def show_queue(self, _request):
        return web.json_response(self.queue)

    async def interrupt(self, request):
        """The prompt ends at once; ComfyUI ends one at its next step."""
        prompt_id = (await request.json())["prompt_id"]
        running = self.queue["queue_running"]
        self.interrupted |= {known for _, known in running if known == prompt_id}
        running[:] = [item for item in running if item[1] != prompt_id]
        return web.Response()

    async def leave(self, _request):
        """Nothing waits here, and no record is forgotten."""
        return web.Response()

    async def history(self, request):
        if request.match_info["id"] in self.interrupted:
            return web.json_response({request.match_info["id"]: INTERRUPTED})
        finished = self.asked[request.path] > self.record_after
        return web.json_response({request.match_info["id"]: DONE} if finished else {})

    async def socket(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.asked["/ws"] < HANG_UP_AFTER:
            await socket.close(code=WSCloseCode.GOING_AWAY)
        else:
            await socket.send_str(json.dumps({"type": "executing", "data": {"node": "11", "prompt_id": JOB}}))
            await socket.send_bytes(struct.pack(">II", 1, 2) + b"a preview picture")
            await socket.send_bytes(struct.pack(">II", 3, 2) + "11step 1 of 2 …".encode())
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
        prompt_id = (await request.json())["prompt_id"]
        self.queue["queue_running"].append([0, prompt_id])
        return web.json_response({"prompt_id": prompt_id, "node_errors": {}})

    async def upload(self, request):
        form = await request.post()
        self.uploads.append({key: value for key, value in form.items() if key != "image"} | {"bytes": form["image"].file.read()})
        return web.json_response({"name": f"{form['image'].filename} (1)", "subfolder": "deep"})


@contextmanager
def serving(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Runs the server in a thread of its own."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.application())
    ready = threading.Event()

    def serve():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", int(server.url.rsplit(":", 1)[1]), ssl_context=tls).start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ready.wait(10)
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
