"""Shows a file on the node that is being executed, while it is being executed."""

import sys
from collections.abc import Callable
from pathlib import Path

import folder_paths
from comfy_execution.utils import get_executing_context


def file_shower() -> Callable[[Path], None]:
    """A function that shows a video file on the current node; it may be called from any thread.

    It sends the message with which ComfyUI tells what a node shows in the end. Without a server, without a browser, or for a file
    outside ComfyUI's output and temp folders it does nothing.
    """
    context = get_executing_context()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is None or server is None or server.client_id is None:
        return lambda path: None
    client_id = server.client_id

    def show(path: Path) -> None:
        output = _video_output(path)
        if output is not None:
            message = {"node": context.node_id, "display_node": context.node_id, "output": output, "prompt_id": context.prompt_id}
            server.send_sync("executed", message, client_id)

    return show


def _video_output(path: Path) -> dict | None:
    """What a node with a video has for the browser."""
    folders = {"output": folder_paths.get_output_directory(), "temp": folder_paths.get_temp_directory()}
    for kind, folder in folders.items():
        if path.is_relative_to(folder):
            subfolder = path.parent.relative_to(folder).as_posix()
            return {"images": [{"filename": path.name, "subfolder": subfolder, "type": kind}], "animated": (True,)}
    return None
