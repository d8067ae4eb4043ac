"""Progress, a line of text and a preview picture on the node that is running."""

import sys
from collections.abc import Callable
from pathlib import Path

import comfy.model_patcher
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyAPISync
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..sampling.progress import Progress
from .runtime import LATENT_FORMAT, raise_if_interrupted

SHARE_STEPS = 100  # into which the bar of `share_reporter` is divided


def step_reporter(model: comfy.model_patcher.ModelPatcher, progress: Progress) -> Callable[[int, Tensor], None]:
    """A callback (steps of the whole run done, predicted latents) that moves ComfyUI's bar and shows the text and the latent preview."""
    import latent_preview  # a module of ComfyUI's root, not of `comfy`

    previewer = latent_preview.get_previewer(model.load_device, LATENT_FORMAT)
    total = progress.num_clips * progress.steps_per_clip
    bar, show_text = comfy.utils.ProgressBar(total), text_display()

    def report(done: int, x0: Tensor) -> None:
        preview = None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(done, total, preview)
        show_text(progress.line(done))

    return report


def share_reporter() -> Callable[[float], None]:
    """A callback (share of the work that is done) that moves the bar of the node that is running, and stops where the user cancels."""
    execution, shown = ComfyAPISync().execution, 0

    def report(share: float) -> None:
        nonlocal shown
        raise_if_interrupted()
        if int(share * SHARE_STEPS) > shown:
            shown = int(share * SHARE_STEPS)
            execution.set_progress(shown, SHARE_STEPS)

    return report


def text_display() -> Callable[[str], None]:
    """Shows a text on the node that is running now; does nothing where no server runs."""
    prompt_server = getattr(sys.modules.get("server"), "PromptServer", None)  # importing it would start one
    server, context = getattr(prompt_server, "instance", None), get_executing_context()
    send = getattr(server, "send_progress_text", None)
    if send is None or context is None:
        return lambda text: None
    return lambda text: send(text, context.node_id)


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
