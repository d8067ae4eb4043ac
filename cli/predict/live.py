"""Live video on the command line: the graph with Sample Video Live, and the video as a stream while it is made."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from ..comfyui.client import OutputFile
from ..comfyui.errors import ComfyError

if TYPE_CHECKING:
    from ..comfyui.client import ComfyClient

STREAMED = "in_progress.mp4"  # grows with every block, in fragments that players take at once


class StreamBroken(ComfyError):
    """Nobody takes the video any more."""


class Stream:
    """Writes the video in progress to a file object, whenever the server says that it has grown; use it as a context manager.

    Args:
        output: binary; the standard output.
    """

    def __init__(self, client: ComfyClient, output: BinaryIO | None = None) -> None:
        self.num_bytes = 0
        self._client, self._output = client, output or sys.stdout.buffer
        self._grown: queue.SimpleQueue[OutputFile | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._write_all, name="wan_s2v_stream", daemon=True)

    def on_shown(self, _node: str, shown: Mapping[str, Any]) -> None:
        """A node shows something; returns at once.

        Raises:
            StreamBroken: the reader has gone, as with a player that was closed.
        """
        self._require_reader()
        for items in shown.values():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, dict) and item.get("filename") == STREAMED:
                    self._grown.put(OutputFile(item["filename"], item["subfolder"], item["type"]))

    def send(self, file: OutputFile) -> None:
        """Write what is not written yet of a file, [num_bytes:]."""
        for block in self._client.read(file, self.num_bytes):
            self._output.write(block)
            self.num_bytes += len(block)
        self._output.flush()

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._grown.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            self._require_reader()
            raise ComfyError(f"The video could not be streamed: {self._failure}") from self._failure

    def _require_reader(self) -> None:
        if isinstance(self._failure, OSError):
            raise StreamBroken(f"The video could not be streamed: {self._failure}") from self._failure

    def _write_all(self) -> None:
        newest = None
        for file in iter(self._grown.get, None):
            newest = file
            self._try_to_send(newest)
        if newest is not None:
            self._try_to_send(newest)  # what came behind the last message

    def _try_to_send(self, file: OutputFile) -> None:
        """A server that does not answer now is asked again when the video has grown; a reader that has gone does not come back."""
        if isinstance(self._failure, OSError):
            return
        try:
            self.send(file)
            self._failure = None
        except (ComfyError, OSError) as error:
            self._failure = error
