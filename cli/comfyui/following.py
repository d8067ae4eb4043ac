"""What ComfyUI's websocket tells of one prompt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

QUIET_CHECK_S = 2.0  # look at the queue itself when the websocket has been silent for this long


@dataclass(frozen=True)
class Progress:
    """One step of a running prompt; `value` of `maximum` within the node."""

    node: str
    value: float
    maximum: float


@dataclass(frozen=True)
class Stage:
    """Where a prompt is: in the queue behind `jobs_before` others, or at a node."""

    node: str = ""
    jobs_before: int = 0


@dataclass(frozen=True)
class Listener:
    """Passes on what the websocket tells of one prompt."""

    prompt_id: str
    on_progress: Callable[[Progress], None]
    on_stage: Callable[[Stage], None]

    async def hear(self, socket: aiohttp.ClientWebSocketResponse[Any]) -> None:
        """Listen until the prompt may have ended: its last message, silence, or a closed connection."""
        while True:
            try:
                message = await socket.receive(QUIET_CHECK_S)
            except (asyncio.TimeoutError, TimeoutError):  # two classes until Python 3.11
                return
            if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                return
            if message.type == aiohttp.WSMsgType.TEXT and self._is_last(json.loads(message.data)):  # else a preview picture
                return

    def _is_last(self, event: Mapping[str, Any]) -> bool:
        data = event.get("data", {})
        if data.get("prompt_id") != self.prompt_id:
            return False
        if event["type"] == "progress":
            self.on_progress(Progress(str(data["node"]), data["value"], data["max"]))
        if event["type"] != "executing":
            return False
        if data.get("node") is not None:
            self.on_stage(Stage(str(data["node"])))
        return data.get("node") is None


def ignore(_news: object) -> None:
    """Where nobody wants to know."""
