"""What ComfyUI's websocket tells of one prompt, where there is one."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from .transport import Transport

try:
    from ...wan_s2v_model.untrusted import printable, read_json
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import printable, read_json

QUIET_CHECK_S = 2.0  # look at the queue itself when the websocket has been silent for this long
CONNECT_TIMEOUT_S = 10.0
NUMBER = struct.Struct(">I")
TEXT_EVENT = 3  # begins a binary message with a text; then the length of the node's id, the id, and the text
ENDED = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


@dataclass(frozen=True)
class Progress:
    """One step of a running prompt; `value` of `maximum` within the node."""

    node: str
    value: float
    maximum: float


@dataclass(frozen=True)
class Text:
    """A text that a node shows while it runs."""

    node: str
    text: str

    @classmethod
    def read(cls, message: bytes) -> Text | None:
        """Read a binary message of the websocket; None for a preview picture."""
        if len(message) < 2 * NUMBER.size or NUMBER.unpack_from(message)[0] != TEXT_EVENT:
            return None
        start = 2 * NUMBER.size
        end = start + NUMBER.unpack_from(message, NUMBER.size)[0]
        return cls(message[start:end].decode("utf-8", "replace"), printable(message[end:].decode("utf-8", "replace")))


@dataclass(frozen=True)
class Stage:
    """Where a prompt is: in the queue behind `jobs_before` others, or at a node; else `words` say what is known."""

    node: str = ""
    jobs_before: int = 0
    words: str = ""


def _event(text: str) -> Mapping[str, Any]:
    """What a message tells; nothing where it is none."""
    try:
        event = read_json(text)
    except ValueError:
        return {}
    return event if isinstance(event, Mapping) and isinstance(event.get("data", {}), Mapping) else {}


class NoSocket:
    """In place of a websocket that cannot be had: it is silent once, then closed."""

    closed = False

    async def receive(self, timeout_s: float) -> aiohttp.WSMessage:
        await asyncio.sleep(timeout_s)
        self.closed = True
        raise TimeoutError


@asynccontextmanager
async def listening(
    session: aiohttp.ClientSession, transport: Transport, client_id: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse[Any] | NoSocket]:
    """The websocket of ComfyUI; many proxies let none through."""
    address = f"{transport.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
    connecting = session.ws_connect(address, max_msg_size=0, ssl=transport.certificates or True, proxy=transport.proxy)
    try:
        socket = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError):
        yield NoSocket()
        return
    async with socket:
        yield socket


@dataclass(frozen=True)
class Listener:
    """Passes on what the websocket tells of one prompt."""

    prompt_id: str
    on_progress: Callable[[Progress], None]
    on_stage: Callable[[Stage], None]
    on_text: Callable[[Text], None]
    on_shown: Callable[[str, Mapping[str, Any]], None] = lambda node, shown: None

    async def hear(self, socket: aiohttp.ClientWebSocketResponse[Any] | NoSocket) -> None:
        """Listen until the prompt may have ended: its last message, silence, or a closed connection."""
        while True:
            try:
                message = await socket.receive(QUIET_CHECK_S)
            except (asyncio.TimeoutError, TimeoutError):  # two classes until Python 3.11
                return
            if message.type in ENDED:
                return
            if message.type == aiohttp.WSMsgType.TEXT and self._is_last(_event(message.data)):
                return
            if message.type == aiohttp.WSMsgType.BINARY and (text := Text.read(message.data)):  # for the id of this client alone
                self.on_text(text)

    def _is_last(self, event: Mapping[str, Any]) -> bool:
        data = event.get("data", {})
        if data.get("prompt_id") != self.prompt_id:
            return False
        if event["type"] == "progress":
            self.on_progress(Progress(str(data["node"]), data["value"], data["max"]))
        if event["type"] == "executed":
            self.on_shown(str(data["node"]), data.get("output") or {})
        if event["type"] != "executing":
            return False
        if data.get("node") is not None:
            self.on_stage(Stage(str(data["node"])))
        return data.get("node") is None


def ignore(*_news: object) -> None:
    """Where nobody wants to know."""
