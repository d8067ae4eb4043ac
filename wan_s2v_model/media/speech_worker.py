"""Client of a speech worker: a program that the user starts in an environment of its own, reached over loopback.

The protocol is described in docs/text_to_speech.md; tts_worker/cosyvoice_worker.py is the other side.
"""

import base64
import contextlib
import http.client
import ipaddress
import json
import logging
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from torch import Tensor

from ..untrusted import cut, read_json, shown
from .espeak import read_wav

logger = logging.getLogger("wan_s2v")

SERVICE = "wan-s2v-speech"
PROTOCOL = 1
DEFAULT_ADDRESS = "127.0.0.1:8190"
TIMEOUT_S = 10.0  # for everything but the synthesis itself, which takes as long as it takes
ANSWER_S = 120.0  # for the whole answer, from its first byte on
MOST_ANSWER_BYTES = 512 * 2**20  # three hours of speech
MOST_STATE_BYTES = 2**20  # of the answer to a question for its state
CONNECT_S = 4.0
POLL_S = 0.25
START = "Start it in CosyVoice's own environment (the help page of Text to Speech says how)"


Request = tuple[str, str, bytes | None]  # method, path and body


class Address(NamedTuple):
    """Where a worker listens, on this machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class SpeechRequest(NamedTuple):
    """What a worker shall say, and how.

    Attributes:
        reference_wav: mono WAV file of 16 bits with the voice to imitate.
        reference_text: what is said there; empty if unknown.
        speed: 1 is the voice's own.
    """

    text: str
    reference_wav: bytes
    reference_text: str
    language: str
    speed: float
    seed: int


def parse_address(text: str) -> Address:
    """Read host:port.

    Raises:
        ValueError: malformed, or not on this machine: what is spoken and whose voice it is stay here.
    """
    try:
        parts = urllib.parse.urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path:
        raise ValueError(f"worker_address must be host:port, such as {DEFAULT_ADDRESS}; got {shown(text)}.")
    if not is_loopback(host):
        raise ValueError(f"worker_address must be on this machine, such as 127.0.0.1:{port}; got {shown(text)}.")
    return Address(host, port)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def speak_with_worker(worker_address: str, request: SpeechRequest, check_cancelled: Callable[[], None]) -> tuple[Tensor, int]:
    """Have a text spoken, once the worker is ready; for arguments and errors see `ask_worker` and `parse_address`."""
    address = parse_address(worker_address)
    worker = wait_until_ready(address, check_cancelled)
    logger.info("%s speaks at %s", cut(str(worker.get("engine", "a speech worker"))), address)
    return ask_worker(address, request, check_cancelled)


def wait_until_ready(address: Address, check_cancelled: Callable[[], None]) -> dict[str, Any]:
    """Wait while the worker loads its model; return what it says of itself.

    Raises:
        RuntimeError: nothing answers, something else answers, or another version of the protocol.
    """
    announced = False
    while not (state := read_health(address, check_cancelled)).get("ready"):
        if not announced:
            logger.info("the speech worker at %s is still loading its model; waiting for it", address)
            announced = True
        check_cancelled()
        time.sleep(POLL_S)
    return state


def read_health(address: Address, check_cancelled: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Ask a worker for its state and check that it is one that we understand; errors as of `wait_until_ready`."""
    status, body = _exchange(address, ("GET", "/v1/health", None), check_cancelled, MOST_STATE_BYTES)
    try:
        state = read_json(body)
    except ValueError:
        state = None
    if not isinstance(state, dict) or state.get("service") != SERVICE:
        raise RuntimeError(f"What answers at {address} (status {status}) is not a Wan S2V speech worker. Check worker_address.")
    if state.get("protocol") != PROTOCOL:
        raise RuntimeError(
            f"The speech worker at {address} speaks version {cut(str(state.get('protocol')))} of the protocol, "
            f"this pack version {PROTOCOL}. "
            "Start the worker that comes with this pack, in its folder tts_worker."
        )
    return state


def ask_worker(address: Address, request: SpeechRequest, check_cancelled: Callable[[], None]) -> tuple[Tensor, int]:
    """Have a text spoken.

    Args:
        check_cancelled: called several times a second; what it raises ends the work on the other side too.
    Returns:
        Waveform [1, T] in [-1, 1], sample rate in Hz.
    Raises:
        RuntimeError: the worker is gone, or refuses with its reason.
    """
    fields = request._replace(reference_wav=b"")._asdict() | {"reference_wav": base64.b64encode(request.reference_wav).decode()}
    request_line = "POST", "/v1/speech", json.dumps(fields).encode()
    status, body = _exchange(address, request_line, check_cancelled, MOST_ANSWER_BYTES, waits=True)
    if status != http.client.OK:
        raise RuntimeError(f"The speech worker at {address} refused: {_reason(body)}")
    return read_wav(body)


def _exchange(
    address: Address, request: Request, check_cancelled: Callable[[], None], most_bytes: int, *, waits: bool = False
) -> tuple[int, bytes]:
    """One request and its whole answer within `TIMEOUT_S`, or, where it `waits`, within `ANSWER_S` of its first byte.

    The talking is done in a thread of its own, whose connection is cut where it takes too long or somebody cancels.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=CONNECT_S)  # knows no proxies
    answers = threading.Event()
    last_s = None if waits else time.monotonic() + TIMEOUT_S
    try:
        connection.connect()
        connection.sock.settimeout(TIMEOUT_S)
        with ThreadPoolExecutor(1, "wan_s2v_speech") as pool, _cut_off(connection.sock):
            talk = pool.submit(_talk, connection, request, answers, most_bytes, waits=waits)
            while not wait((talk,), POLL_S).done:
                check_cancelled()
                last_s = last_s or (time.monotonic() + ANSWER_S if answers.is_set() else None)
                if last_s and time.monotonic() > last_s:
                    raise RuntimeError(f"The speech worker at {address} does not come to the end of its answer. {START} again.")
            return talk.result()
    except ConnectionRefusedError as error:
        raise RuntimeError(f"No speech worker answers at {address}. {START}, or check worker_address.") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RuntimeError(
            f"The speech worker at {address} broke off without an answer ({type(error).__name__}). Look at its window. {START} again."
        ) from error


@contextlib.contextmanager
def _cut_off(connection: socket.socket) -> Iterator[None]:
    """End a connection, on which another thread may still wait, behind the work with it."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # closed by now
            connection.shutdown(socket.SHUT_RDWR)


def _talk(
    connection: http.client.HTTPConnection, request: Request, answers: threading.Event, most_bytes: int, *, waits: bool
) -> tuple[int, bytes]:
    """Status and body of the answer; `answers` is set when it begins."""
    method, path, body = request
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        if waits:
            connection.sock.settimeout(None)  # the synthesis takes as long as it takes
            connection.sock.recv(1, socket.MSG_PEEK)
            answers.set()
            connection.sock.settimeout(TIMEOUT_S)
        response = connection.getresponse()
        content = response.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise http.client.HTTPException("too long")
        return response.status, content
    finally:
        connection.close()


def _reason(body: bytes) -> str:
    try:
        return cut(str(read_json(body)["error"]), 300)
    except (ValueError, KeyError, TypeError):
        return cut(body[:200].decode(errors="replace"))
