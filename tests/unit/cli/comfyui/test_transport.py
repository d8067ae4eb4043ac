"""What goes over the wire: files as streams, and the way that a request takes."""

from __future__ import annotations

import http.server
import threading
import tracemalloc

import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, OutputFile
from wan_s2v_pack.cli.comfyui.errors import NoAnswer
from wan_s2v_pack.cli.comfyui.transport import BLOCK_BYTES, Multipart, Transport, is_near

LARGE_BYTES = 64 * 2**20
BLOCK = bytes(2**16)


class Sink(http.server.BaseHTTPRequestHandler):
    """Counts what it is sent, and sends as much."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.received = sum(len(self.rfile.read(min(len(BLOCK), length - done))) for done in range(0, length, len(BLOCK)))
        self.answer(b'{"name": "a.wav", "subfolder": ""}')

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith("/view"):
            self.answer(BLOCK, LARGE_BYTES // len(BLOCK))
        else:
            self.answer(b'{"max_upload_size": 1000000000}')

    def answer(self, block, times=1):
        self.send_response(200)
        self.send_header("Content-Length", str(len(block) * times))
        self.end_headers()
        for _ in range(times):
            self.wfile.write(block)

    def log_message(self, *_):
        pass


@pytest.fixture
def sink():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_large_files_are_never_held_whole(sink, tmp_path):
    """The sound of a film was read into memory, and copied once more with the form around it."""
    client = ComfyClient(f"http://127.0.0.1:{sink.server_port}")
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(LARGE_BYTES)
    assert peak_bytes(lambda: client.upload(tmp_path / "long.wav")) < 8 * BLOCK_BYTES
    assert LARGE_BYTES < sink.received < LARGE_BYTES + 1000
    assert peak_bytes(lambda: client.download(OutputFile("v.mp4", "", "output"), tmp_path / "v.mp4")) < 8 * BLOCK_BYTES
    assert (tmp_path / "v.mp4").stat().st_size == LARGE_BYTES


def test_form_is_as_long_as_it_says(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"sound")
    with (tmp_path / "a.wav").open("rb") as file:
        form = Multipart({"type": "input"}, "image", file, 'täglich "1".wav')
        body = b"".join(form)
    assert len(form) == len(body)
    boundary = form.content_type.partition("boundary=")[2].encode()
    assert body.split(b"--" + boundary) == [
        b"",
        b'\r\nContent-Disposition: form-data; name="type"\r\n\r\ninput\r\n',
        'Content-Disposition: form-data; name="image"; filename="täglich %221%22.wav"\r\nContent-Type: audio/x-wav\r\n\r\nsound'.encode()
        .join([b"\r\n", b"\r\n"]),
        b"--\r\n",
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1:8188", "http://[::1]:8188", "http://192.168.0.7:8188"])
def test_machines_at_hand(url):
    assert is_near(url)


@pytest.mark.parametrize("url", ["https://gpu.example.org", "http://8.8.8.8", "nonsense"])
def test_machines_elsewhere(url):
    assert not is_near(url)


def test_proxy_of_the_environment_is_for_machines_elsewhere(sink, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Transport(f"http://127.0.0.1:{sink.server_port}").get("/features") == {"max_upload_size": 10**9}
    with pytest.raises(NoAnswer, match=r"does not answer at http://gpu\.example\.org"):
        Transport("http://gpu.example.org").get("/features")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{sink.server_port}")
    Transport("http://gpu.example.org").get("/features")
    assert sink.asked == ["/features", "http://gpu.example.org/features"]
