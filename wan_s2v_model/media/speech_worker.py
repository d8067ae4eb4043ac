"""Client of a speech worker: a program that the user starts in an environment of its own, reached over loopback.

The protocol is described in docs/text_to_speech.md; tts_worker/cosyvoice_worker.py is the other side.
"""

import base64
import http.client
import ipaddress
import json
import logging
import socket
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from .espeak import read_wav

logger = logging.getLogger("wan_s2v")

SERVICE = "wan-s2v-speech"
PROTOCOL = 1
DEFAULT_ADDRESS = "127.0.0.1:8190"
TIMEOUT_S = 10.0  # for everything but the synthesis itself, which takes as long as it takes
POLL_S = 0.25
START = "Start it in CosyVoice's own environment (the help page of Text to Speech says how)"


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
        raise ValueError(f"worker_address must be host:port, such as {DEFAULT_ADDRESS}; got {text!r}.")
    if not is_loopback(host):
        raise ValueError(f"worker_address must be on this machine, such as 127.0.0.1:{port}; got {text!r}.")
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
    logger.info("%s speaks at %s", worker.get("engine", "a speech worker"), address)
    return ask_worker(address, request, check_cancelled)


def wait_until_ready(address: Address, check_cancelled: Callable[[], None]) -> dict[str, Any]:
    """Wait while the worker loads its model; return what it says of itself.

    Raises:
        RuntimeError: nothing answers, something else answers, or another version of the protocol.
    """
    announced = False
    while not (state := read_health(address)).get("ready"):
        if not announced:
            logger.info("the speech worker at %s is still loading its model; waiting for it", address)
            announced = True
        check_cancelled()
        time.sleep(POLL_S)
    return state


def read_health(address: Address) -> dict[str, Any]:
    """Ask a worker for its state and check that it is one that we understand."""
    status, body = _exchange(address, "GET", "/v1/health")
    try:
        state = json.loads(body)
    except ValueError:
        state = None
    if not isinstance(state, dict) or state.get("service") != SERVICE:
        raise RuntimeError(f"What answers at {address} (status {status}) is not a Wan S2V speech worker. Check worker_address.")
    if state.get("protocol") != PROTOCOL:
        raise RuntimeError(
            f"The speech worker at {address} speaks version {state.get('protocol')} of the protocol, this pack version {PROTOCOL}. "
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
    status, body = _exchange(address, "POST", "/v1/speech", json.dumps(fields).encode(), check_cancelled)
    if status != http.client.OK:
        raise RuntimeError(f"The speech worker at {address} refused: {_reason(body)}")
    return read_wav(body)


def _exchange(
    address: Address, method: str, path: str, body: bytes | None = None, check_cancelled: Callable[[], None] | None = None
) -> tuple[int, bytes]:
    """One request and its answer; with `check_cancelled` the answer may take any time."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)  # knows no proxies
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        if check_cancelled:
            _wait_for_answer(connection.sock, check_cancelled)
        response = connection.getresponse()
        return response.status, response.read()
    except ConnectionRefusedError as error:
        raise RuntimeError(f"No speech worker answers at {address}. {START}, or check worker_address.") from error
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(
            f"The speech worker at {address} broke off without an answer ({type(error).__name__}). Look at its window. {START} again."
        ) from error
    finally:
        connection.close()


def _wait_for_answer(connection: socket.socket, check_cancelled: Callable[[], None]) -> None:
    connection.settimeout(POLL_S)
    while True:
        try:
            connection.recv(1, socket.MSG_PEEK)
            break
        except TimeoutError:
            check_cancelled()
    connection.settimeout(TIMEOUT_S)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
