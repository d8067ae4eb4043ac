"""What goes over the wire: files as streams, and the way that a request takes."""

from __future__ import annotations

import http.server
import mimetypes
import re
import socket
import ssl
import struct
import threading
import tracemalloc
from pathlib import Path

import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, OutputFile
from wan_s2v_pack.cli.comfyui.errors import ComfyError, NoAnswer, PromptRefused, Unavailable
from wan_s2v_pack.cli.comfyui.transport import BLOCK_BYTES, Multipart, Transport, is_near
from wan_s2v_pack.tests.fake_comfyui import DONE, HANG_UP_AFTER, JOB, serving
from wan_s2v_pack.tests.fake_gateway import Gateway

LARGE_BYTES = 64 * 2**20
BLOCK = bytes(2**16)
CERTIFICATE = Path(__file__).with_name("self_signed.pem")  # for localhost, with its key; nobody trusts it


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
    wav, _ = mimetypes.guess_type("a.wav")  # each system has its own word for it
    assert body.split(b"--" + boundary) == [
        b"",
        b'\r\nContent-Disposition: form-data; name="type"\r\n\r\ninput\r\n',
        f'Content-Disposition: form-data; name="image"; filename="täglich %221%22.wav"\r\nContent-Type: {wav}\r\n\r\nsound'.encode()
        .join([b"\r\n", b"\r\n"]),
        b"--\r\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:1",
        "http://127.0.0.1:8188",
        "http://[::1]:8188",
        "http://192.168.0.7:8188",
        "http://100.101.102.103",
        "http://box",
        "http://box.local",
    ],
)
def test_machines_at_hand(url):
    assert is_near(url)


@pytest.mark.parametrize("url", ["https://gpu.example.org", "http://8.8.8.8"])
def test_machines_elsewhere(url):
    assert not is_near(url)


def test_proxy_of_the_environment_is_for_machines_elsewhere(sink, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert Transport(f"http://127.0.0.1:{sink.server_port}").get("/features") == {"max_upload_size": 10**9}
    with pytest.raises(NoAnswer, match=r"HTTP_PROXY .* has no way to http://gpu\.example\.org .*refused.*NO_PROXY=gpu\.example\.org"):
        Transport("http://gpu.example.org").get("/features")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{sink.server_port}")
    Transport("http://gpu.example.org").get("/features")
    assert sink.asked == ["/features", "http://gpu.example.org/features"]


# --- who refuses, and why


@pytest.fixture
def gateway():
    with serving(Gateway()) as gateway:
        yield gateway


REFUSALS = {
    401: (NoAnswer, "asks for a login, or does not accept the given one (status 401). Give --auth USER:PASSWORD"),
    403: (NoAnswer, "lets nobody through without the right to it (status 403). Give --auth USER:PASSWORD"),
    407: (NoAnswer, "asks for a login (status 407). Put it into HTTP_PROXY or HTTPS_PROXY."),
    413: (PromptRefused, "does not take a request of 0.5 MB (status 413). Raise the limit of what stands in front of ComfyUI"),
    429: (Unavailable, "cannot reach ComfyUI behind it now (status 429)"),
    502: (Unavailable, "cannot reach ComfyUI behind it now (status 502)"),
    504: (Unavailable, "cannot reach ComfyUI behind it now (status 504)"),
    524: (Unavailable, "cannot reach ComfyUI behind it now (status 524)"),
}


@pytest.mark.parametrize("status", REFUSALS)
def test_refusal_names_its_cause(status, gateway):
    """All of them said `answered /upload/image with status ...` and sent the person to ComfyUI's log, where nothing stands."""
    kind, words = REFUSALS[status]
    gateway.answer = status, {}, b"<html>no</html>"
    with pytest.raises(ComfyError, match=re.escape(words)) as caught:
        Transport(gateway.url).post("/prompt", {"big": "x" * 2**19})
    assert type(caught.value) is kind


def test_page_of_a_proxy_about_an_error(gateway):
    """As nginx answers where TLS is wanted; it said to look at the log of ComfyUI."""
    gateway.answer = 400, {"Content-Type": "text/html"}, b"<html>The plain HTTP request was sent to HTTPS port</html>"
    with pytest.raises(NoAnswer, match=r"is not ComfyUI\. Is the address right\? It shows a web page with status 400"):
        Transport(gateway.url).get("/queue")


@pytest.mark.parametrize("target", ["https://login.example.org/start?state=secret", "https://me:secret@login.example.org/x"])
def test_redirection_is_named_and_not_followed(target, gateway):
    """A POST came back as a GET, and a token would go to whoever the redirection names."""
    gateway.answer = 302, {"Location": target}, b""
    with pytest.raises(NoAnswer, match=r"sends requests on to https://login\.example\.org\. Give that address") as caught:
        Transport(gateway.url, (("X-Token", "secret"),)).get("/queue")
    assert "secret" not in str(caught.value)


def test_connection_that_breaks_while_much_is_sent(tmp_path):
    class Rude(Sink):
        def do_POST(self):
            self.rfile.read(1000)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            self.connection.close()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rude) as server:
        server.asked = []
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with (tmp_path / "long.wav").open("wb") as file:
            file.truncate(LARGE_BYTES)
        with pytest.raises(Unavailable, match=r"broke while 64 MB were sent .*Does something in front of ComfyUI limit the size"):
            ComfyClient(f"http://127.0.0.1:{server.server_port}").upload(tmp_path / "long.wav")
        server.shutdown()


@pytest.fixture
def safe(monkeypatch):
    """A server whose certificate nobody knows."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    with serving(Gateway(), context) as gateway:
        gateway.url = gateway.url.replace("http://", "https://")
        yield gateway


def test_certificate_that_nobody_knows(safe):
    with pytest.raises(NoAnswer, match=r"No safe connection to https://.*self.signed certificate.*\(PEM\) in SSL_CERT_FILE") as caught:
        Transport(safe.url).get("/queue")
    assert not isinstance(caught.value, Unavailable), "trying again does not help"


def test_server_without_tls(gateway):
    with pytest.raises(NoAnswer, match=r"No safe connection to https://.*Is it an http:// address\?"):
        Transport(gateway.url.replace("http://", "https://")).get("/queue")


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificate_of_the_environment(name, safe, monkeypatch):
    """For the requests and for the websocket."""
    monkeypatch.setenv(name, str(CERTIFICATE))
    safe.record_after = HANG_UP_AFTER
    assert ComfyClient(safe.url).run({}, prompt_id=JOB) == DONE["outputs"]
    assert len(safe.lets_in) == HANG_UP_AFTER


def test_certificates_that_cannot_be_read(monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "gone.pem")
    with pytest.raises(NoAnswer, match=r"REQUESTS_CA_BUNDLE names gone\.pem, which holds no certificates that can be read"):
        Transport("https://127.0.0.1:9")
