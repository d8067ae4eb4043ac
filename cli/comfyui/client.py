"""Client of ComfyUI's HTTP and websocket API: upload, queue, follow, fetch."""

from __future__ import annotations

import asyncio
import http.client
import json
import mimetypes
import os
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import aiohttp

HTTP_TIMEOUT_S = 60.0
QUIET_CHECK_S = 2.0  # look at the queue itself when the websocket has been silent for this long
UPLOAD_MARGIN_BYTES = 2**14  # of a request around the file
DOWNLOAD_BLOCK_BYTES = 2**20
JSON_HEADERS = {"Content-Type": "application/json"}
OBJECT_INFO = "/object_info"
# Loopback must not go through a proxy named in the environment.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
class OutputFile:
    """A file a node has written, as ComfyUI names it."""

    filename: str
    subfolder: str
    type: str

    @property
    def name(self) -> str:
        """Below the folder of its type."""
        return "/".join(part for part in (self.subfolder, self.filename) if part)

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
        return self._get(OBJECT_INFO)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the record of a finished prompt, None before it has finished."""
        return self._get(f"/history/{prompt_id}").get(prompt_id)

    def queue_state(self) -> tuple[list[str], list[str]]:
        """Return the ids of the running and of the waiting prompts, the next one first."""
        state = self._get("/queue")
        return [item[1] for item in state["queue_running"]], [item[1] for item in sorted(state["queue_pending"], key=itemgetter(0))]

    def interrupt(self, prompt_id: str) -> None:
        """Cancel a prompt that runs, or take it out of the queue."""
        self._post("/queue", {"delete": [prompt_id]})
        self._post("/interrupt", {"prompt_id": prompt_id})

    def free(self) -> None:
        """Forget cached results and unload models before the next prompt."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def upload(self, path: Path, *, name: str | None = None) -> str:
        """Copy a picture, sound or video into the server's input folder; return the name to give to a load node.

        Another file of that name stays as it is: this one then gets a number behind its name.

        Raises:
            PromptRefused: if the file is larger than the server takes.
        """
        path = Path(path)
        self._require_upload_size(path)
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        boundary = uuid.uuid4().hex
        field = f'--{boundary}\r\nContent-Disposition: form-data; name="type"\r\n\r\ninput\r\n'
        head = f'{field}--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name or path.name}"\r\n'
        body = f"{head}Content-Type: {content_type}\r\n\r\n".encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = json.loads(self._send("/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def _require_upload_size(self, path: Path) -> None:
        size, largest = path.stat().st_size, self._get("/features")["max_upload_size"]
        if size + UPLOAD_MARGIN_BYTES > largest:
            raise PromptRefused(
                f"{path.name} has {size / 2**20:,.0f} MB, but the server takes at most {largest / 2**20:,.0f} MB. "
                "Start ComfyUI with a larger --max-upload-size (in MB), or give a compressed file."
            )

    def queue(self, prompt: Mapping[str, Any], *, workflow: Mapping[str, Any] | None = None, prompt_id: str | None = None) -> str:
        """Queue a prompt in API format and return its id.

        Args:
            prompt: node id -> {"class_type", "inputs"}.
            workflow: the same graph in UI format, stored by the save nodes in their files.
            prompt_id: a UUID of yours, so that the prompt can be cancelled while it is being queued; default: the server picks one.
        Raises:
            PromptRefused: with the broken inputs; nothing runs, not even other outputs.
        """
        request: dict[str, Any] = {"prompt": prompt, "client_id": self.client_id, "prompt_id": prompt_id}
        if workflow is not None:
            request["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        answer = self._post("/prompt", request)
        if answer["node_errors"]:  # ComfyUI would run the other outputs without a word
            self.interrupt(answer["prompt_id"])
            raise refusal("/prompt", 200, answer)
        return answer["prompt_id"]

    def download(self, file: OutputFile, destination: Path) -> Path:
        """Fetch an output file over HTTP (where the server's folders are not reachable).

        Raises:
            ComfyError: if the server does not have it any more, or the connection breaks; an older `destination` is kept then.
        """
        query = urllib.parse.urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
        partial = destination.with_name(f"{destination.name}.part")
        try:
            with self._open(f"/view?{query}") as response, partial.open("wb") as stream:
                stream.writelines(_received(response, file))
            os.replace(partial, destination)
        finally:
            partial.unlink(missing_ok=True)
        return destination

    # --- following a prompt

    def run(
        self,
        prompt: Mapping[str, Any],
        on_progress: Callable[[Progress], None] | None = None,
        *,
        on_stage: Callable[[Stage], None] | None = None,
        workflow: Mapping[str, Any] | None = None,
        prompt_id: str | None = None,
    ) -> dict[str, Any]:
        """Queue a prompt, wait for its end and return its outputs; arguments and errors are those of `queue` and `wait`.

        The server is listened to before the prompt is queued, so that no step of it goes unheard.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        listener = _Listener(prompt_id, on_progress or _ignore, on_stage or _ignore)
        return self._outputs(listener, lambda: self.queue(prompt, workflow=workflow, prompt_id=prompt_id))

    def wait(
        self,
        prompt_id: str,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        on_stage: Callable[[Stage], None] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of a prompt that is queued.

        Args:
            on_progress: called for every step from now on; may call `interrupt`.
            on_stage: called now and then while the prompt waits in the queue, and when a node starts.
        Returns:
            Node id -> what that output node shows.
        Raises:
            PromptFailed, PromptInterrupted: with node id, node type and message.
            TimeoutError: the prompt goes on, only the waiting ends.
        """
        return self._outputs(_Listener(prompt_id, on_progress or _ignore, on_stage or _ignore), timeout_s=timeout_s)

    def _outputs(
        self, listener: _Listener, on_connect: Callable[[], object] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Follow a prompt to its end; the first thing once the server is listened to is `on_connect`."""
        try:
            record = asyncio.run(asyncio.wait_for(self._follow(listener, on_connect), timeout_s))
        except asyncio.TimeoutError as error:  # not the built-in class before Python 3.11
            raise TimeoutError(f"The prompt {listener.prompt_id} has not ended after {timeout_s:g} s.") from error
        except aiohttp.ClientError as error:
            raise self._no_answer(error) from error
        for event, data in record["status"]["messages"]:
            if event == "execution_error":
                raise failure(data)
            if event == "execution_interrupted":
                node = {"node_id": str(data["node_id"]), "node_type": data["node_type"]}
                raise PromptInterrupted("The prompt was cancelled.", details=data, **node)
        return record["outputs"]

    async def _follow(self, listener: _Listener, on_connect: Callable[[], object] | None) -> dict[str, Any]:
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        async with aiohttp.ClientSession() as session:
            while True:  # a lost connection is made again as long as the server answers
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    if on_connect is not None:
                        on_connect()
                        on_connect = None
                    while not socket.closed:
                        # Asking only after connecting leaves no gap in which the end could be missed.
                        if record := self._ended(listener):
                            return record
                        await listener.hear(socket)

    def _ended(self, listener: _Listener) -> dict[str, Any] | None:
        """The record of the prompt once it has ended; else tell how long the queue before it is."""
        if record := self.history(listener.prompt_id):
            return record
        running, waiting = self.queue_state()
        if listener.prompt_id in waiting:
            listener.on_stage(Stage(jobs_before=len(running) + waiting.index(listener.prompt_id)))
        elif listener.prompt_id not in running and not self.history(listener.prompt_id):
            raise PromptInterrupted(f"The prompt {listener.prompt_id} is no longer in the queue: it was cancelled before it started.")
        return None

    # --- plumbing

    def _get(self, path: str) -> Any:
        return self._decoded(self._send(path))

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self._send(path, json.dumps(body).encode(), JSON_HEADERS)
        return self._decoded(answer) if answer else None

    def _decoded(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise self._other_service() from error

    def _send(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        with self._open(path, body, headers) as response:
            try:
                return response.read()
            except (OSError, http.client.HTTPException) as error:
                raise self._no_answer(error) from error

    def _open(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data=body, headers=dict(headers or {}))
        try:
            return _DIRECT.open(request, timeout=HTTP_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if path == OBJECT_INFO and error.code == http.HTTPStatus.NOT_FOUND:  # every ComfyUI has it
                raise self._other_service() from error
            raise refusal(path, error.code, _json_or_none(error.read())) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(error) from error

    def _other_service(self) -> NoAnswer:
        return NoAnswer(f"What answers at {self.url} is not ComfyUI. Is the address right?")

    def _no_answer(self, error: Exception) -> NoAnswer:
        return NoAnswer(f"ComfyUI does not answer at {self.url} ({error}). Is it running?")


@dataclass(frozen=True)
class _Listener:
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


def _received(response: http.client.HTTPResponse, file: OutputFile) -> Iterator[bytes]:
    """The bytes of a file, all of them or a ComfyError."""
    missing, reason = int(response.headers["Content-Length"]), "it is cut off"
    try:
        while block := response.read(DOWNLOAD_BLOCK_BYTES):
            missing -= len(block)
            yield block
    except (OSError, http.client.HTTPException) as error:
        reason = str(error)
    if missing:
        raise ComfyError(f"{file.name} could not be fetched whole: {reason}. It lies in the server's {file.type} folder.")


def _ignore(_news: object) -> None:
    pass


def _json_or_none(body: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(body)
    except ValueError:
        return None


class ComfyError(RuntimeError):
    """The server refused or failed a prompt.

    Attributes:
        node_id, node_type: the node that failed, where known.
        kind: ComfyUI's error type or the Python exception's class name.
        details: the server's answer.
    """

    def __init__(self, message: str, *, node_id: str = "", node_type: str = "", kind: str = "", details: Any = None) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type
        self.kind = kind
        self.details = details


class NoAnswer(ComfyError):
    """Nothing answers at the server's address."""


class PromptRefused(ComfyError):
    """The prompt did not pass validation; nothing ran."""


class PromptFailed(ComfyError):
    """A node raised while the prompt ran."""


class PromptInterrupted(ComfyError):
    """The prompt was cancelled."""


def failure(data: Mapping[str, Any]) -> PromptFailed:
    """The error for ComfyUI's `execution_error`."""
    node_id, node_type = str(data["node_id"]), data["node_type"]
    message = f"{node_type} (node {node_id}): {data['exception_message'].strip()}"
    return PromptFailed(message, node_id=node_id, node_type=node_type, kind=data["exception_type"], details=data)


def refusal(path: str, status: int, answer: Any) -> ComfyError:
    """The error for an answer of ComfyUI, None if it is no JSON: one line per broken input, or its general message."""
    if not isinstance(answer, Mapping) or not {"node_errors", "error"} & set(answer):
        return ComfyError(f"ComfyUI answered {path} with status {status}. Look at the server's log.")
    broken = [(key, node, error) for key, node in answer.get("node_errors", {}).items() for error in node["errors"]]
    if not broken:
        error = answer.get("error", {})
        return PromptRefused(f"{error.get('message', '')}: {error.get('details', '')}", kind=error.get("type", ""), details=answer)
    text = "\n".join(f"{node['class_type']} (node {key}): {error['message']}: {error['details']}" for key, node, error in broken)
    key, node, error = broken[0]
    return PromptRefused(text, node_id=str(key), node_type=node["class_type"], kind=error["type"], details=answer)
