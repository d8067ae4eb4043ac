"""A hub of our own on loopback, which can break in all the ways that matter."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

COMMIT = "a" * 40
CHUNK_BYTES = 16_384
AUDIO = "wav2vec2_large_english_fp16.safetensors"
VAE = "wan_2.1_vae.safetensors"
CONTENTS = {name: random.Random(name).randbytes(400_000) for name in (AUDIO, VAE)}


@dataclass
class FakeHub:
    """What the hub serves, how it misbehaves, and what was asked of it.

    Attributes:
        status: answer to everything instead of the file, with the header that names the error.
        cut: number of bytes after which the next answer breaks off.
        stall: number of bytes after which the next answer stands still until the client has gone.
        sizes, digests: told instead of the true ones.
        sent: (name, first byte) of every answer with content.
    """

    url: str = ""
    contents: dict[str, bytes] = field(default_factory=lambda: dict(CONTENTS))
    status: tuple[int, str] | None = None
    cut: int | None = None
    stall: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    sent: list[tuple[str, int]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """The protocol for large files: HEAD gives size and hash and the address of the storage, GET is sent on to it."""

    hub: FakeHub

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        if self.hub.status:
            self.headers_only(self.hub.status[0], {"X-Error-Code": self.hub.status[1], "X-Repo-Commit": COMMIT})
        elif name not in self.hub.contents:
            self.headers_only(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif self.path.startswith("/storage/"):
            self.send_content(name, self.hub.contents[name])
        elif name.endswith((".json", ".model")):  # small files are not in the storage; their hash is git's
            content = self.hub.contents[name]
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.send_content(name, content, {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
        else:
            content = self.hub.contents[name]
            digest = self.hub.digests.get(name, hashlib.sha256(content).hexdigest())
            size = self.hub.sizes.get(name, len(content))
            headers = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(size), "X-Repo-Commit": COMMIT}
            storage = self.hub.url.replace("127.0.0.1", "localhost")  # another host, as in the real world
            self.headers_only(302, {**headers, "Location": f"{storage}/storage/{name}"})

    def headers_only(self, status, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_content(self, name, content, headers=None):
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        headers = {**(headers or {}), "Content-Length": str(len(content) - start)}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if asked else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send_chunks(name, content[start:], start)

    def send_chunks(self, name, content, start):
        length = len(content) if self.hub.cut is None else self.hub.cut
        stall, self.hub.stall, self.hub.cut = self.hub.stall, None, None
        self.hub.sent.append((name, start))
        sent = 0
        try:
            while sent < length:
                sent += self.wfile.write(content[sent : min(sent + CHUNK_BYTES, length)])
                if stall is not None and sent >= stall:
                    self.rfile.read(1)
                    break
        except OSError:
            pass  # the client has gone
        self.close_connection = True

    def log_message(self, *_):
        pass
