"""The client of the speech worker against wrong addresses and wrong servers; the real worker is in test_cosyvoice_worker."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from wan_s2v_pack.cli.comfyui.server import free_port
from wan_s2v_pack.wan_s2v_model.media.speech_worker import Address, SpeechRequest, ask_worker, parse_address, read_health

HEALTH = {"service": "wan-s2v-speech", "protocol": 1, "ready": True}
REQUEST = SpeechRequest("Hello.", b"", "", "en", 1.0, 0)


@contextmanager
def server(answer: bytes, status: int = 200):
    """Answers every request the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield Address("127.0.0.1", http_server.server_port)
        http_server.shutdown()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8190", ("127.0.0.1", 8190)),
        (" localhost:1 ", ("localhost", 1)),
        ("127.8.9.10:65535", ("127.8.9.10", 65535)),
        ("[::1]:8190", ("::1", 8190)),
    ],
)
def test_addresses_of_this_machine(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "127.0.0.1", ":8190", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:70000", "[::1", "127.0.0.1:1/x"])
def test_malformed_addresses(text):
    with pytest.raises(ValueError, match="must be host:port"):
        parse_address(text)


@pytest.mark.parametrize("host", ["192.168.0.2", "0.0.0.0", "example.com", "localhost.example.com", "[::]", "8.8.8.8"])
def test_other_machines_are_refused(host):
    with pytest.raises(ValueError, match="must be on this machine"):
        parse_address(f"{host}:8190")


def test_a_good_health():
    with server(json.dumps(HEALTH).encode()) as address:
        assert read_health(address) == HEALTH


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"service": "other"}', b"\xff"])
def test_another_program_at_the_address(answer):
    with server(answer, status=404) as address, pytest.raises(RuntimeError, match=rf"{address.port} \(status 404\) is not a Wan S2V"):
        read_health(address)


def test_another_version_of_the_protocol():
    with (
        server(json.dumps({**HEALTH, "protocol": 2}).encode()) as address,
        pytest.raises(RuntimeError, match=r"speaks version 2 .* version 1"),
    ):
        read_health(address)


def test_nothing_at_the_address():
    address = Address("127.0.0.1", free_port())
    with pytest.raises(RuntimeError, match=f"No speech worker answers at {address}. Start it"):
        read_health(address)


def test_a_worker_that_dies_while_it_speaks():
    def die_after_the_request():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=die_after_the_request, daemon=True).start()
        address = Address(*listener.getsockname())
        with pytest.raises(RuntimeError, match="broke off without an answer"):
            ask_worker(address, REQUEST, lambda: None)


def test_speech_that_is_no_wav():
    with server(b"nothing of the kind") as address, pytest.raises(ValueError, match="not a WAV file"):
        ask_worker(address, REQUEST, lambda: None)


def test_a_refusal_that_is_no_json():
    with server(b"out of order", status=500) as address, pytest.raises(RuntimeError, match="refused: out of order"):
        ask_worker(address, REQUEST, lambda: None)
