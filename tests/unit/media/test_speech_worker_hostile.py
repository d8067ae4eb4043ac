"""A speech worker that answers for ever, or nonsense; and a text that nobody can wait for."""

import os
import shlex
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from wan_s2v_pack.wan_s2v_model.media import espeak, speech_worker
from wan_s2v_pack.wan_s2v_model.media.espeak import read_wav, speak_with_espeak
from wan_s2v_pack.wan_s2v_model.media.speech_worker import Address, SpeechRequest, ask_worker, read_health, wait_until_ready

REQUEST = SpeechRequest("Hello.", b"", "", "en", 1.0, 0)
HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


class Cancelled(BaseException):
    """As ComfyUI's interrupt."""


@contextmanager
def talking(pieces, every_s=0.0):
    """A server that sends pieces to whoever comes, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stopped = threading.Event()

        def talk():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                try:
                    for piece in pieces:
                        if stopped.wait(every_s):
                            return
                        connection.sendall(piece)
                    stopped.wait(20)
                except OSError:
                    pass

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield Address("127.0.0.1", listening.getsockname()[1])
        stopped.set()
        thread.join(5)


def drips():
    yield HEAD
    while True:
        yield b" "


def floods():
    yield HEAD
    while True:
        yield b" " * 65536


def within(seconds, action):
    start = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        action()
    assert time.monotonic() - start < seconds
    return str(caught.value)


def test_a_byte_now_and_then_is_no_answer(monkeypatch):
    """Before, each byte gave it ten seconds more."""
    monkeypatch.setattr(speech_worker, "TIMEOUT_S", 0.6)
    monkeypatch.setattr(speech_worker, "ANSWER_S", 0.6)
    for ask in (read_health, lambda address: ask_worker(address, REQUEST, lambda: None)):
        with talking(drips(), 0.1) as address:
            assert "does not come to the end of its answer" in within(4, lambda ask=ask, address=address: ask(address))


def test_an_answer_without_end(monkeypatch):
    monkeypatch.setattr(speech_worker, "MOST_ANSWER_BYTES", 2**20)
    with talking(floods()) as address:
        assert "broke off without an answer" in within(5, lambda: ask_worker(address, REQUEST, lambda: None))


@pytest.mark.parametrize("pieces", [[], [HEAD + b"{"], [b"HTTP"]], ids=["silent", "half a body", "half a line"])
def test_a_cancel_ends_every_wait(pieces):
    calls = []

    def cancel():
        calls.append(1)
        if len(calls) > 1:
            raise Cancelled

    start = time.monotonic()
    with talking(pieces) as address, pytest.raises(Cancelled):
        ask_worker(address, REQUEST, cancel)
    assert time.monotonic() - start < 4


def test_a_cancel_ends_the_question_for_the_state():
    """Before, it was heard when the ten seconds of the question were over."""

    def cancel():
        raise Cancelled

    start = time.monotonic()
    with talking([]) as address, pytest.raises(Cancelled):
        wait_until_ready(address, cancel)
    assert time.monotonic() - start < 3


def test_a_state_without_end():
    """Before, up to half a gigabyte of it was taken."""
    taken = []
    with talking(taken.append(1) or piece for piece in floods()) as address:
        assert "broke off without an answer" in within(5, lambda: read_health(address))
    assert len(taken) < 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"service":"wan-s2v-speech","protocol":1e999}', b"\xff"])
def test_a_health_that_no_worker_gives(body):
    class Ends(list):
        pass

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(HEAD + body)

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(RuntimeError, match="is not a Wan S2V speech worker"):
            read_health(Address("127.0.0.1", listening.getsockname()[1]))


def wav(channels=1, rate=16000, bits=16, data=b"\0\0" * 10):
    form = struct.pack("<HHIIHH", 1, channels, rate, 0, channels * bits // 8 & 0xFFFF, bits)
    parts = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


@pytest.mark.parametrize(
    "data",
    [
        wav(channels=0),
        wav(channels=65535),
        wav(rate=0),
        wav(rate=1),
        wav(rate=2**31),
        wav(bits=1),
        wav(data=b"\0"),
        wav(channels=3, data=b"\0\0\0"),
        b"",
        b"RIFF",
    ],
    ids=range(10),
)
def test_wav_files_that_no_voice_makes(data):
    with pytest.raises(ValueError, match="The speech is"):
        read_wav(data)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Put a command espeak-ng on the path that runs this code."""
    if os.name == "nt":
        pytest.skip("the stand-in is a shell script")

    def put(code):
        program = tmp_path / "espeak-ng"
        program.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', code])}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return put


def test_a_cancel_ends_espeak(command):
    """Before, a pasted book was spoken to its end."""
    command("import time; time.sleep(60)")
    start = time.monotonic()

    def cancel():
        if time.monotonic() - start > 0.3:
            raise Cancelled

    with pytest.raises(Cancelled):
        speak_with_espeak("a book", "en", 1.0, cancel)
    assert time.monotonic() - start < 5


def test_speech_without_end(command, monkeypatch):
    monkeypatch.setattr(espeak, "MOST_SPEECH_BYTES", 2**20)
    command("import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))")
    with pytest.raises(RuntimeError, match="more than three hours"):
        speak_with_espeak("a book", "en", 1.0)


def test_a_complaint_is_cut(command):
    command("import sys; sys.stderr.write('\\x1b[31m' + 'no ' * 100000); sys.exit(1)")
    with pytest.raises(RuntimeError, match="failed with language 'en'") as caught:
        speak_with_espeak("x", "en", 1.0)
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)
