"""Client of ComfyUI's HTTP and websocket API: upload, queue, follow, fetch."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import requests

from .address import Headers
from .errors import (
    ComfyError,
    CutOff,
    NoAnswer,
    PromptFailed,
    PromptInterrupted,
    PromptRefused,
    Unavailable,
    failure,
    refusal,
)
from .following import Listener, NoSocket, Progress, Stage, Text, ignore, listening
from .transport import BLOCK_BYTES, VIEW, Multipart, Transport, is_page, root_cause

try:
    from ...wan_s2v_model.files import discard, replace
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import discard, replace

__all__ = [
    "ComfyClient",
    "ComfyError",
    "NoAnswer",
    "OutputFile",
    "Progress",
    "PromptFailed",
    "PromptInterrupted",
    "PromptRefused",
    "Stage",
    "Text",
]

UPLOAD_MARGIN_BYTES = 2**14  # of a request around the file
RETRY_S = 3.0
PARTIAL = 206  # status of an answer with a part of a file
AS_IT_IS = {"Accept-Encoding": "identity"}  # a compressed answer would not say how long the file is

T = TypeVar("T")


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
        headers: sent with every request, such as a login.
        patience_s: how long to try again when the server does not answer while a file is on its way or a prompt runs.
    Raises:
        ValueError: if the URL is none of a server.
    """

    def __init__(self, url: str, headers: Headers = (), patience_s: float = 0.0) -> None:
        self._http = Transport(url, headers)
        self._patience_s = patience_s
        self.url = self._http.url
        self.client_id = uuid.uuid4().hex

    # --- requests

    def object_info(self) -> dict[str, Any]:
        """Return the description of every node type the server knows."""
        return self._http.get("/object_info")

    def system_stats(self) -> dict[str, Any]:
        """Return what the server tells of itself and its devices."""
        return self._http.get("/system_stats")

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the record of a finished prompt, None before it has finished."""
        return self._http.get(f"/history/{prompt_id}", finite=False).get(prompt_id)

    def queue_state(self) -> tuple[list[str], list[str]]:
        """Return the ids of the running and of the waiting prompts, the next one first."""
        state = self._http.get("/queue", finite=False)  # with the prompts of others
        return [item[1] for item in state["queue_running"]], [item[1] for item in sorted(state["queue_pending"], key=itemgetter(0))]

    def interrupt(self, prompt_id: str) -> None:
        """Cancel a prompt that runs, or take it out of the queue."""
        self._http.post("/queue", {"delete": [prompt_id]})
        self._http.post("/interrupt", {"prompt_id": prompt_id})

    def forget(self, prompt_id: str) -> None:
        """Let the server forget how a prompt ended."""
        self._http.post("/history", {"delete": [prompt_id]})

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
        answer = self._patiently(lambda: self._send(path))  # again it gets the same name: ComfyUI compares the bytes
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def _send(self, path: Path) -> Any:
        with path.open("rb") as stream:
            return self._http.post("/upload/image", Multipart({"type": "input"}, "image", stream, path.name))

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
        partial = partial_file(destination)
        try:
            self._patiently(lambda: self._receive(file, partial))
            replace(partial, destination)
        finally:
            discard(partial)
        return destination

    def _receive(self, file: OutputFile, destination: Path) -> None:
        query = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        with self._http.open("GET", VIEW, params=query, headers=AS_IT_IS) as response, destination.open("wb") as stream:
            if is_page(response):
                raise self._http.not_comfyui(response)
            stream.writelines(_received(response, file))

    def read(self, file: OutputFile, start: int) -> Iterator[bytes]:
        """The bytes of an output file that may be growing, from one of them on; none where it ends there.

        Raises:
            ComfyError: if the server does not have it, or the connection breaks.
        """
        first = max(0, start - 1)  # a server refuses to begin behind the end
        query, headers = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}, {"Range": f"bytes={first}-"}
        with self._http.open("GET", VIEW, params=query, headers={**AS_IT_IS, **headers}) as response:
            if is_page(response):
                raise self._http.not_comfyui(response)
            skipped = start - first if response.status_code == PARTIAL else start
            for block in _received(response, file):
                if len(block) > skipped:
                    yield block[skipped:]
                skipped = max(0, skipped - len(block))

    # --- following a prompt

    def run(
        self,
        prompt: Mapping[str, Any],
        on_progress: Callable[[Progress], None] | None = None,
        *,
        on_stage: Callable[[Stage], None] | None = None,
        on_text: Callable[[Text], None] | None = None,
        on_shown: Callable[[str, Mapping[str, Any]], None] | None = None,
        workflow: Mapping[str, Any] | None = None,
        prompt_id: str | None = None,
        may_be_there: bool = False,
    ) -> dict[str, Any]:
        """Queue a prompt, wait for its end and return its outputs; arguments and errors are those of `queue` and `wait`.

        The server is listened to before the prompt is queued, so that no step of it goes unheard: `on_progress` is called for every one
        and may call `interrupt`. `on_text` is given what nodes say while they run, `on_shown` what they show. A prompt that `may_be_there`
        is looked for first.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        tried, queued = may_be_there, False

        def queue() -> None:
            nonlocal tried, queued
            if not queued and not (tried and self._knows(prompt_id)):  # it may have arrived, and only the answer was lost
                tried = True
                self.queue(prompt, workflow=workflow, prompt_id=prompt_id)
            queued = True

        listener = Listener(prompt_id, on_progress or ignore, on_stage or ignore, on_text or ignore, on_shown or ignore)
        return self._outputs(listener, queue)

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
        return self._outputs(Listener(prompt_id, ignore, on_stage or ignore, ignore), lambda: None, timeout_s)

    def _outputs(self, listener: Listener, queue: Callable[[], None], timeout_s: float | None = None) -> dict[str, Any]:
        """Follow a prompt to its end; `queue` sees to it, once the server is listened to, that the prompt is in the queue."""
        try:
            record = asyncio.run(asyncio.wait_for(self._follow(listener, queue), timeout_s))
        except asyncio.TimeoutError as error:  # not the built-in class before Python 3.11
            raise TimeoutError(f"The prompt {listener.prompt_id} has not ended after {timeout_s:g} s.") from error
        for event, data in record["status"]["messages"]:
            if event == "execution_error":
                raise failure(data)
            if event == "execution_interrupted":
                node = {"node_id": str(data["node_id"]), "node_type": data["node_type"]}
                raise PromptInterrupted("The prompt was cancelled.", details=data, **node)
        return record["outputs"]

    async def _follow(self, listener: Listener, queue: Callable[[], None]) -> dict[str, Any]:
        answered_s = time.monotonic()
        async with aiohttp.ClientSession(headers=self._http.headers) as session:
            while True:  # a lost connection is made again as long as the server answers
                async with listening(session, self._http, self.client_id) as socket:
                    while not socket.closed:
                        try:
                            queue()
                            # Asking only after connecting leaves no gap in which the end could be missed.
                            if record := self._ended(listener, heard=not isinstance(socket, NoSocket)):
                                return record
                            answered_s = time.monotonic()
                        except Unavailable:
                            if time.monotonic() - answered_s >= self._patience_s:
                                raise
                            listener.on_stage(Stage(words="the server does not answer; trying again"))
                        await listener.hear(socket)

    def _ended(self, listener: Listener, heard: bool) -> dict[str, Any] | None:
        """The record of the prompt once it has ended; else tell how long the queue before it is, or that its steps are not heard of."""
        if record := self.history(listener.prompt_id):
            return record
        running, waiting = self.queue_state()
        if listener.prompt_id in waiting:
            listener.on_stage(Stage(jobs_before=len(running) + waiting.index(listener.prompt_id)))
        elif listener.prompt_id not in running and not self.history(listener.prompt_id):
            why = "it was cancelled before it started, or ComfyUI was started again"
            raise PromptInterrupted(f"The prompt {listener.prompt_id} is no longer in the queue: {why}.")
        elif not heard:
            listener.on_stage(Stage(words="running; its steps are not shown, as no websocket gets through"))
        return None

    def _knows(self, prompt_id: str) -> bool:
        running, waiting = self.queue_state()
        return prompt_id in (*running, *waiting) or self.history(prompt_id) is not None

    def _patiently(self, action: Callable[[], T]) -> T:
        """Try again while nothing answers or answers are cut off, as long as patience lasts."""
        last_try_s = None
        while True:
            try:
                return action()
            except (Unavailable, CutOff):
                last_try_s = last_try_s or time.monotonic() + self._patience_s
                if time.monotonic() >= last_try_s:
                    raise
            time.sleep(RETRY_S)


def partial_file(destination: Path) -> Path:
    """Where a download is collected."""
    return destination.with_name(f"{destination.name}.part")


def _received(response: requests.Response, file: OutputFile) -> Iterator[bytes]:
    """The bytes of a file, all of them or an error; what comes in chunks or compressed does not say how many there are."""
    length = None if "Content-Encoding" in response.headers else response.headers.get("Content-Length")
    received, reason = 0, "" if length is None else "it is cut off"
    try:
        for block in response.iter_content(BLOCK_BYTES):
            received += len(block)
            yield block
    except requests.RequestException as error:
        length, reason = None, str(root_cause(error))
    if reason and str(received) != length:
        raise CutOff(f"{file.name} could not be fetched whole: {reason}. It lies in the server's {file.type} folder.")
