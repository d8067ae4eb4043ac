"""One video: put the inputs on the server, queue the graph, follow it, find the file."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comfyui.client import ComfyClient, ComfyError, NoAnswer, OutputFile, partial_file
from .graph import SAVE, Prompt, Request, build_prompt
from .live import StreamBroken
from .picture import readable_picture
from .progress_bar import ProgressBar
from .sound import readable

try:
    from ...wan_s2v_model.files import remove
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.files import remove

CANCEL_TIMEOUT_S = 30.0
OnShown = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Made:
    """A finished video.

    Attributes:
        file: in the server's output folder.
        seconds: from queueing to the end.
    """

    file: OutputFile
    prompt: Prompt
    prompt_id: str
    seconds: float


def make_video(client: ComfyClient, request: Request, say: Callable[[str], None], on_shown: OnShown | None = None) -> Made:
    """Make a video on the server.

    Args:
        say: told what happens beside the progress. on_shown: given the node and what it shows, whenever one shows something.
    Raises:
        PromptError, ComfyError: with what is wrong.
        KeyboardInterrupt, StreamBroken: after the prompt was cancelled on the server.
    """
    pictures = request.image, request.video_mask, *(speaker.place for speaker in request.speakers)
    with tempfile.TemporaryDirectory(prefix="wan_s2v_") as folder:

        def upload(path: Path) -> str:
            if path in request.sounds:
                path = readable(path, Path(folder), say)
            elif path in pictures:
                path = readable_picture(path, Path(folder), say)
            return client.upload(path)

        prompt = build_prompt(request, client.object_info(), upload)
    prompt_id, start_s = str(uuid.uuid4()), time.monotonic()
    try:
        with ProgressBar(prompt) as bar:
            outputs = client.run(
                prompt, bar.on_progress, on_stage=bar.on_stage, on_text=bar.on_text, on_shown=on_shown, prompt_id=prompt_id
            )
    except (KeyboardInterrupt, StreamBroken):
        cancel(client, prompt_id, say)
        raise
    except NoAnswer as error:
        raise NoAnswer(f"{error} A job that is queued goes on there: the same command fetches its video later.") from error
    return Made(find_video(outputs, prompt), prompt, prompt_id, time.monotonic() - start_s)


def require_writable(video: Path) -> None:
    """Make the folder of the video, and find out now whether it can be written there.

    Raises:
        OSError: if not.
    """
    video.parent.mkdir(parents=True, exist_ok=True)
    if video.exists() and not os.access(video, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected", str(video))
    partial_file(video).touch()
    remove(partial_file(video))


def cancel(client: ComfyClient, prompt_id: str, say: Callable[[str], None]) -> None:
    """Take the prompt off the server, and wait for a while until it is off."""
    say("cancelling the job on the server; press Ctrl-C again to leave without waiting")
    try:
        client.interrupt(prompt_id)
        with contextlib.suppress(ComfyError):  # PromptInterrupted is how it should end
            client.wait(prompt_id, timeout_s=CANCEL_TIMEOUT_S)
    except TimeoutError:
        say("the job ends on the server with its present step")
    except ComfyError as error:
        say(f"the job could not be cancelled: {error}")


def find_video(outputs: Mapping[str, Any], prompt: Prompt) -> OutputFile:
    """The file that the save node reports."""
    for node_id, shown in outputs.items():
        if prompt[node_id]["class_type"] == SAVE:
            file = next(item for items in shown.values() for item in items if isinstance(item, dict) and "filename" in item)
            return OutputFile(file["filename"], file["subfolder"], file["type"])
    raise ComfyError(f"The prompt ended without a video; ComfyUI's answer: {str(outputs)[:500]}")
