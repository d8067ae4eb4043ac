"""Client of ComfyUI's HTTP and websocket API: upload, queue, follow, fetch."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import aiohttp
import requests

from .errors import ComfyError, NoAnswer, PromptFailed, PromptInterrupted, PromptRefused, failure, refusal
from .following import Listener, Progress, Stage, ignore
from .transport import BLOCK_BYTES, OBJECT_INFO, Multipart, Transport, root_cause

__all__ = ["ComfyClient", "ComfyError", "NoAnswer", "OutputFile", "Progress", "PromptFailed", "PromptInterrupted", "PromptRefused", "Stage"]

UPLOAD_MARGIN_BYTES = 2**14  # of a request around the file
AS_IT_IS = {"Accept-Encoding": "identity"}  # a compressed answer would not say how long the file is


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
        self._http = Transport(url)
        self.url = self._http.url
        self.client_id = uuid.uuid4().hex

    # --- requests

    def object_info(self) -> dict[str, Any]:
        """Return the description of every node type the server knows."""
        return self._http.get(OBJECT_INFO)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the record of a finished prompt, None before it has finished."""
        return self._http.get(f"/history/{prompt_id}").get(prompt_id)

    def queue_state(self) -> tuple[list[str], list[str]]:
        """Return the ids of the running and of the waiting prompts, the next one first."""
        state = self._http.get("/queue")
        return [item[1] for item in state["queue_running"]], [item[1] for item in sorted(state["queue_pending"], key=itemgetter(0))]

    def interrupt(self, prompt_id: str) -> None:
        """Cancel a prompt that runs, or take it out of the queue."""
        self._http.post("/queue", {"delete": [prompt_id]})
        self._http.post("/interrupt", {"prompt_id": prompt_id})

    def free(self) -> None:
        """Forget cached results and unload models before the next prompt."""
        self._http.post("/free", {"unload_models": True, "free_memory": True})

    def upload(self, path: Path) -> str:
        """Copy a picture, sound or video into the server's input folder; return the name to give to a load node.

        Another file of that name stays as it is: this one then gets a number behind its name.

        Raises:
            PromptRefused: if the file is larger than the server takes.
        """
        path = Path(path)
        self._require_upload_size(path)
        with path.open("rb") as stream:
            answer = self._http.post("/upload/image", Multipart({"type": "input"}, "image", stream, path.name))
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def _require_upload_size(self, path: Path) -> None:
        size, largest = path.stat().st_size, self._http.get("/features")["max_upload_size"]
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
        answer = self._http.post("/prompt", request)
        if answer["node_errors"]:  # ComfyUI would run the other outputs without a word
            self.interrupt(answer["prompt_id"])
            raise refusal("/prompt", 200, answer)
        return answer["prompt_id"]

    def download(self, file: OutputFile, destination: Path) -> Path:
        """Fetch an output file over HTTP (where the server's folders are not reachable).

        Raises:
            ComfyError: if the server does not have it any more, or the connection breaks; an older `destination` is kept then.
        """
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        partial = destination.with_name(f"{destination.name}.part")
        try:
            with self._http.open("GET", "/view", params=query, headers=AS_IT_IS) as response, partial.open("wb") as stream:
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

        The server is listened to before the prompt is queued, so that no step of it goes unheard: `on_progress` is called for every one
        and may call `interrupt`.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        listener = Listener(prompt_id, on_progress or ignore, on_stage or ignore)
        return self._outputs(listener, lambda: self.queue(prompt, workflow=workflow, prompt_id=prompt_id))

    def wait(
        self,
        prompt_id: str,
        *,
        on_stage: Callable[[Stage], None] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Wait for the end of a prompt that is queued.

        Args:
            on_stage: called now and then while the prompt waits in the queue, and when a node starts.
        Returns:
            Node id -> what that output node shows.
        Raises:
            PromptFailed, PromptInterrupted: with node id, node type and message.
            TimeoutError: the prompt goes on, only the waiting ends.
        """
        return self._outputs(Listener(prompt_id, ignore, on_stage or ignore), timeout_s=timeout_s)

    def _outputs(
        self, listener: Listener, on_connect: Callable[[], object] | None = None, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Follow a prompt to its end; the first thing once the server is listened to is `on_connect`."""
        try:
            record = asyncio.run(asyncio.wait_for(self._follow(listener, on_connect), timeout_s))
        except asyncio.TimeoutError as error:  # not the built-in class before Python 3.11
            raise TimeoutError(f"The prompt {listener.prompt_id} has not ended after {timeout_s:g} s.") from error
        except aiohttp.ClientError as error:
            raise self._http.no_answer(error) from error
        for event, data in record["status"]["messages"]:
            if event == "execution_error":
                raise failure(data)
            if event == "execution_interrupted":
                node = {"node_id": str(data["node_id"]), "node_type": data["node_type"]}
                raise PromptInterrupted("The prompt was cancelled.", details=data, **node)
        return record["outputs"]

    async def _follow(self, listener: Listener, on_connect: Callable[[], object] | None) -> dict[str, Any]:
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

    def _ended(self, listener: Listener) -> dict[str, Any] | None:
        """The record of the prompt once it has ended; else tell how long the queue before it is."""
        if record := self.history(listener.prompt_id):
            return record
        running, waiting = self.queue_state()
        if listener.prompt_id in waiting:
            listener.on_stage(Stage(jobs_before=len(running) + waiting.index(listener.prompt_id)))
        elif listener.prompt_id not in running and not self.history(listener.prompt_id):
            raise PromptInterrupted(f"The prompt {listener.prompt_id} is no longer in the queue: it was cancelled before it started.")
        return None


def _received(response: requests.Response, file: OutputFile) -> Iterator[bytes]:
    """The bytes of a file, all of them or a ComfyError."""
    missing, reason = int(response.headers["Content-Length"]), "it is cut off"
    try:
        for block in response.iter_content(BLOCK_BYTES):
            missing -= len(block)
            yield block
    except requests.RequestException as error:
        reason = root_cause(error)
    if missing:
        raise ComfyError(f"{file.name} could not be fetched whole: {reason}. It lies in the server's {file.type} folder.")
