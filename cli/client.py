"""Client of ComfyUI's HTTP and websocket API: upload, queue, follow, fetch."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from .errors import ComfyError, PromptInterrupted, failure, refusal

HTTP_TIMEOUT_S = 60.0
QUIET_CHECK_S = 2.0  # look at the queue itself when the websocket has been silent for this long
JSON_HEADERS = {"Content-Type": "application/json"}

# Loopback must not go through a proxy named in the environment.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Progress:
    """One step of a running prompt; `value` of `maximum` within the node."""

    node: str
    value: float
    maximum: float


@dataclass(frozen=True)
class OutputFile:
    """A file a node has written, as ComfyUI names it."""

    filename: str
    subfolder: str
    type: str

    def path(self, base_directory: Path) -> Path:
        """Return where the file lies below ComfyUI's base directory."""
        return Path(base_directory) / self.type / self.subfolder / self.filename


class ComfyClient:
    """Talks to one ComfyUI server.

    Args:
        url: e.g. http://127.0.0.1:8188
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex

    # --- requests

    def object_info(self) -> dict[str, Any]:
        """Return the description of every node type the server knows."""
        return self._get("/object_info")

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the record of a finished prompt, None before it has finished."""
        return self._get(f"/history/{prompt_id}").get(prompt_id)

    def queue_state(self) -> tuple[list[str], list[str]]:
        """Return the ids of the running and of the waiting prompts."""
        state = self._get("/queue")
        return [item[1] for item in state["queue_running"]], [item[1] for item in state["queue_pending"]]

    def interrupt(self, prompt_id: str) -> None:
        """Cancel a prompt that runs, or take it out of the queue."""
        self._post("/queue", {"delete": [prompt_id]})
        self._post("/interrupt", {"prompt_id": prompt_id})

    def free(self) -> None:
        """Forget cached results and unload models before the next prompt."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def upload(self, path: Path, *, name: str | None = None) -> str:
        """Copy a picture, sound or video into the server's input folder; return the name to give to a load node."""
        path = Path(path)
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        boundary = uuid.uuid4().hex
        fields = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in (("type", "input"), ("overwrite", "true"))
        )
        head = f'{fields}--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name or path.name}"\r\n'
        body = f"{head}Content-Type: {content_type}\r\n\r\n".encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = json.loads(self._send("/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def queue(self, prompt: Mapping[str, Any], *, workflow: Mapping[str, Any] | None = None) -> str:
        """Queue a prompt in API format and return its id.

        Args:
            prompt: node id -> {"class_type", "inputs"}.
            workflow: the same graph in UI format, stored by the save nodes in their files.
        Raises:
            PromptRefused: with the broken inputs; nothing runs, not even other outputs.
        """
        request: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:
            request["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        answer = self._post("/prompt", request)
        if answer["node_errors"]:  # ComfyUI would run the other outputs without a word
            self.interrupt(answer["prompt_id"])
            raise refusal("/prompt", 200, answer)
        return answer["prompt_id"]

    def download(self, file: OutputFile, destination: Path) -> Path:
        """Fetch an output file over HTTP (where the server's folders are not reachable)."""
        query = urllib.parse.urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
        destination.write_bytes(self._send(f"/view?{query}"))
        return destination

    # --- following a prompt

    def run(self, prompt: Mapping[str, Any], on_progress: Callable[[Progress], None] | None = None, **options: Any) -> dict[str, Any]:
        """Queue a prompt, wait for its end and return its outputs."""
        return self.wait(self.queue(prompt, **options), on_progress)

    def wait(
        self, prompt_id: str, on_progress: Callable[[Progress], None] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Wait for the end of a prompt.

        Args:
            on_progress: called for every step; may call `interrupt`.
        Returns:
            Node id -> what that output node shows.
        Raises:
            PromptFailed, PromptInterrupted: with node id, node type and message.
            TimeoutError: the prompt goes on, only the waiting ends.
        """
        try:
            record = asyncio.run(asyncio.wait_for(self._follow(prompt_id, on_progress), timeout_s))
        except asyncio.TimeoutError as error:  # not the built-in class before Python 3.11
            raise TimeoutError(f"The prompt {prompt_id} has not ended after {timeout_s:g} s.") from error
        except aiohttp.ClientError as error:
            raise ComfyError(f"ComfyUI does not answer at {self.url} ({error}). Is it running?") from error
        for event, data in record["status"]["messages"]:
            if event == "execution_error":
                raise failure(data)
            if event == "execution_interrupted":
                node = {"node_id": str(data["node_id"]), "node_type": data["node_type"]}
                raise PromptInterrupted("The prompt was cancelled.", details=data, **node)
        return record["outputs"]

    async def _follow(self, prompt_id: str, on_progress: Callable[[Progress], None] | None) -> dict[str, Any]:
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            while True:
                # Asking only after connecting leaves no gap in which the end could be missed.
                if record := self.history(prompt_id):
                    return record
                running, waiting = self.queue_state()
                if prompt_id not in running + waiting and not self.history(prompt_id):
                    raise PromptInterrupted(f"The prompt {prompt_id} is no longer in the queue: it was cancelled before it started.")
                await _until_news(socket, prompt_id, on_progress)

    # --- plumbing

    def _get(self, path: str) -> Any:
        return json.loads(self._send(path))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self._send(path, json.dumps(body).encode(), JSON_HEADERS)
        return json.loads(answer) if answer else None

    def _send(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers or {}))
        try:
            with _DIRECT.open(request, timeout=HTTP_TIMEOUT_S) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            raise refusal(path, error.code, _json_or_none(error.read())) from error
        except OSError as error:
            raise ComfyError(f"ComfyUI does not answer at {self.url} ({error}). Is it running?") from error


async def _until_news(socket: aiohttp.ClientWebSocketResponse[Any], prompt_id: str, on_progress: Callable[[Progress], None] | None) -> None:
    """Report progress until the prompt may have ended: its last message, or silence."""
    while True:
        try:
            message = await socket.receive(QUIET_CHECK_S)
        except (asyncio.TimeoutError, TimeoutError):  # two classes until Python 3.11
            return
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
            raise ComfyError("The connection to ComfyUI was closed while a prompt was running. Look at the server's log.")
        if message.type != aiohttp.WSMsgType.TEXT:
            continue  # binary preview pictures
        event = json.loads(message.data)
        data = event.get("data", {})
        if data.get("prompt_id") != prompt_id:
            continue
        if event["type"] == "progress" and on_progress:
            on_progress(Progress(str(data["node"]), data["value"], data["max"]))
        if event["type"] == "executing" and data.get("node") is None:
            return


def _json_or_none(body: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(body)
    except ValueError:
        return None
