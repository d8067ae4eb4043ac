"""A ComfyUI behind a reverse proxy that has a mind of its own."""

from __future__ import annotations

import asyncio

from aiohttp import web

from .fake_comfyui import Server


class Gateway(Server):
    """What a test sets here stands between the client and ComfyUI.

    Attributes:
        login: the only value of the header Authorization that is let through.
        outages: beginning of a path -> statuses of the next answers to it, web pages instead of ComfyUI's.
        lost: paths whose next answer is lost behind ComfyUI: it has done what it was asked for, the client gets a 504.
        answer: status, headers and body of every answer, instead of ComfyUI's.
        websockets: they are let through.
        hangs_s: how long a websocket is kept waiting.
        chunked: files are passed on in chunks, without a length.
        lets_in: headers of each websocket that was let through.
    """

    def __init__(self):
        super().__init__()
        self.login = None
        self.outages = {}
        self.lost = []
        self.answer = None
        self.websockets = True
        self.hangs_s = 0
        self.chunked = False
        self.lets_in = []

    @web.middleware
    async def count(self, request, handler):
        self.asked[request.path] += 1
        if status := self.refusal(request):
            await request.read()
            return web.Response(status=status, text="<html>no way</html>", content_type="text/html")
        if self.answer:
            await request.read()
            status, headers, body = self.answer
            return web.Response(status=status, headers=headers, body=body)
        if request.path == "/ws":
            await asyncio.sleep(self.hangs_s)
            self.lets_in.append(request.headers)
        answer = await handler(request)
        if request.path in self.lost:
            self.lost.remove(request.path)
            return web.Response(status=504)
        return answer

    def refusal(self, request):
        """The status of an answer that does not come from ComfyUI."""
        if self.login and request.headers.get("Authorization") != self.login:
            return 401
        if request.path == "/ws" and not self.websockets:
            return 400
        statuses = next((statuses for path, statuses in self.outages.items() if request.path.startswith(path)), [])
        return statuses.pop(0) if statuses else None

    async def view(self, request):
        if not self.chunked:
            return await super().view(request)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"x" * 60)
        await response.write(b"x" * 40)
        return response
