"""Speech worker for the ComfyUI pack Wan S2V: CosyVoice 2 in a Python environment of its own.

    python cosyvoice_worker.py --cosyvoice PATH/TO/CosyVoice --model PATH/TO/CosyVoice2-0.5B

CosyVoice's packages fight with ComfyUI's, so nothing of it runs inside ComfyUI: this file, which needs nothing of the pack, is started
with the Python of CosyVoice's environment, and the node Text to Speech (Wan S2V) talks to it. It listens on this machine only and
downloads nothing. The protocol is described in docs/text_to_speech.md. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import inspect
import io
import json
import random
import select
import socket
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SERVICE = "wan-s2v-speech"
PROTOCOL = 1
PORT = 8190
HEAR_OUT_S = 5.0
MAX_REQUEST_BYTES = 16 * 2**20
MAX_CONNECTIONS = 8  # at once; the node needs one
REQUEST_S = 30.0  # for a whole request, from the connection on
FIELDS: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "reference_wav": str,
    "reference_text": str,
    "language": str,
    "speed": (int, float),
    "seed": int,
}
RANGES = {"speed": (0.1, 10.0), "seed": (0, 2**64 - 1)}
ENGINE_ERRORS = (AssertionError, RuntimeError, ValueError, TypeError, LookupError, OSError)


class Refusal(Exception):
    """A request that cannot be served, with the HTTP status to say so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Abandoned(Exception):
    """Nobody waits for the speech any more."""


# --- CosyVoice


class CosyVoice2:
    """CosyVoice 2 of the official repository, old (prompt_speech_16k) or new (prompt_wav).

    Args:
        model: folder with cosyvoice2.yaml.
        fp16: half precision, on a GPU.
    """

    def __init__(self, model: Path, *, fp16: bool) -> None:
        from cosyvoice.cli import cosyvoice

        self.engine = cosyvoice.CosyVoice2(str(model), load_jit=False, load_trt=False, fp16=fp16)
        self.name = f"CosyVoice 2 ({model.name})"
        self.lock = threading.Lock()

    def speak(self, request: dict[str, Any], is_wanted: Callable[[], bool]) -> bytes:
        """Say a text as a WAV file of 16 bits; `is_wanted` is asked between the sentences."""
        import torch

        with self.lock, tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "reference.wav"
            reference.write_bytes(request["reference_wav"])
            random.seed(request["seed"])
            torch.manual_seed(request["seed"])
            pieces = []
            for piece in self._pieces(request, reference):
                pieces.append(piece["tts_speech"].detach().float().cpu())  # [1, T]
                if not is_wanted():
                    raise Abandoned
        if not pieces:
            raise Refusal(422, "CosyVoice found nothing to speak in the text.")
        return to_wav(torch.cat(pieces, dim=1).clamp(-1, 1).mul(32767).round().short().numpy().tobytes(), self.engine.sample_rate)

    def _pieces(self, request: dict[str, Any], reference: Path) -> Iterator[dict[str, Any]]:
        """With the words of the reference its manner is taken over too, without them its timbre only."""
        known = bool(request["reference_text"].strip())
        function = self.engine.inference_zero_shot if known else self.engine.inference_cross_lingual
        texts = [request["text"], request["reference_text"]] if known else [request["text"]]
        return function(*texts, prompt_for(function, reference), stream=False, speed=request["speed"])


def prompt_for(function: Callable[..., Any], reference: Path) -> Any:
    """The reference as this version of CosyVoice wants it: the file, or its samples at 16 kHz."""
    if "prompt_wav" in inspect.signature(function).parameters:
        return str(reference)
    from cosyvoice.utils.file_utils import load_wav

    return load_wav(str(reference), 16000)


def to_wav(samples: bytes, sample_rate: int) -> bytes:
    """A mono WAV file of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(sample_rate)
        target.writeframes(samples)
    return file.getvalue()


# --- HTTP on loopback


class Server(ThreadingHTTPServer):
    """Listens at once; `voice` is None until the model is loaded."""

    daemon_threads = True
    voice: CosyVoice2 | None = None

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or is cut off, needs no page of Python in the window."""
        print(f"{client_address[0]}: {type(sys.exc_info()[1]).__name__}", file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = REQUEST_S  # type: ignore[assignment]  # of each wait

    def setup(self) -> None:
        super().setup()
        self._end = threading.Timer(REQUEST_S, self._cut)  # a byte now and then does not keep it open
        self._end.daemon = True
        self._end.start()

    def finish(self) -> None:
        self._end.cancel()
        super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self._serve({"/v1/health": self._health})

    def do_POST(self) -> None:
        self._serve({"/v1/speech": self._speech})

    def _serve(self, paths: dict[str, Callable[[], tuple[str, bytes]]]) -> None:
        try:
            self._answer(*self._result(paths))
            self._hear_out()
        except (Abandoned, ConnectionError):
            self.log_message("the client went away; stopped")

    def _result(self, paths: dict[str, Callable[[], tuple[str, bytes]]]) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer."""
        try:
            self._require_local_host()
            if self.path not in paths:
                raise Refusal(404, f"There is no {self.command} {self.path[:80]} in version {PROTOCOL} of the protocol.")
            return 200, *paths[self.path]()
        except Refusal as refusal:
            return refusal.status, "application/json", json.dumps({"error": str(refusal)}).encode()

    def _require_local_host(self) -> None:
        """A page in a browser that resolves its own name to this machine sends that name here."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost"):
            raise Refusal(403, f"The host {host[:80]!r} is not this machine.")

    def _health(self) -> tuple[str, bytes]:
        voice = self.server.voice
        state = {"service": SERVICE, "protocol": PROTOCOL, "ready": voice is not None, "engine": voice.name if voice else "CosyVoice 2"}
        return "application/json", json.dumps(state).encode()

    def _speech(self) -> tuple[str, bytes]:
        if self.server.voice is None:
            raise Refusal(503, "The model is still being loaded.")
        request = self._read_request()
        self.log_message("%d characters", len(request["text"]))
        try:
            return "audio/wav", self.server.voice.speak(request, self._client_waits)
        except ENGINE_ERRORS as error:
            raise Refusal(500, f"{type(error).__name__}: {str(error)[:500]}") from error

    def _read_request(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":  # which no foreign web page may send
            raise Refusal(415, "The request must be application/json.")
        try:
            length = int(self.headers.get("Content-Length", "0"))
            if not 0 <= length <= MAX_REQUEST_BYTES:
                raise Refusal(413, f"The request has {length} bytes; at most {MAX_REQUEST_BYTES} are taken.")
            data = self.rfile.read(length)
            if len(data) < length:
                raise Abandoned
            self._end.cancel()
            self.connection.settimeout(None)
            return checked(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"The request is not JSON ({str(error)[:80]}).") from error

    def _client_waits(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except ConnectionError:
            return False

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hear_out(self) -> None:
        """Take what the client still sends: a connection that ends before is reset, and a refusal may be lost with it."""
        until_s = time.monotonic() + HEAR_OUT_S
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(HEAR_OUT_S)
            while time.monotonic() < until_s and self.connection.recv(2**16):
                pass


def checked(request: Any) -> dict[str, Any]:
    """The fields of a request with the reference decoded; a missing or wrong one is refused by name."""
    fields = request if isinstance(request, dict) else {}
    for name, kind in FIELDS.items():
        if not isinstance(fields.get(name), kind):
            raise Refusal(400, f"The field {name} is missing or of the wrong type.")
    for name, (lowest, highest) in RANGES.items():
        if not lowest <= fields[name] <= highest:  # NaN is in none
            raise Refusal(400, f"The field {name} must be from {lowest} to {highest}.")
    try:
        return {**fields, "reference_wav": base64.b64decode(fields["reference_wav"], validate=True)}
    except binascii.Error as error:
        raise Refusal(400, f"The field reference_wav is not base64 ({error}).") from error


# --- command line


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.cosyvoice:
        sys.path[:0] = [str(options.cosyvoice), str(options.cosyvoice / "third_party" / "Matcha-TTS")]
    with Server(("127.0.0.1", options.port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"listening on 127.0.0.1:{server.server_port}, loading {options.model} ...", flush=True)
        server.voice = CosyVoice2(options.model, fp16=options.fp16)
        print("ready; Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("ended", flush=True)
        server.shutdown()
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of CosyVoice2-0.5B, downloaded beforehand")
    parser.add_argument("--cosyvoice", type=Path, help="checkout of the CosyVoice repository; not needed where it can be imported already")
    parser.add_argument("--port", type=int, default=PORT, help="port on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--fp16", action="store_true", help="half precision on a GPU")
    options = parser.parse_args(arguments)
    if not (options.model / "cosyvoice2.yaml").is_file():
        parser.error(f"there is no cosyvoice2.yaml in {options.model}. Download CosyVoice2-0.5B and give its folder.")
    if options.cosyvoice and not (options.cosyvoice / "cosyvoice").is_dir():
        parser.error(f"there is no folder cosyvoice in {options.cosyvoice}. Give the checkout of the CosyVoice repository.")
    return options


if __name__ == "__main__":
    sys.exit(main())
