"""Progress, a line of text and a preview picture on the node that is running."""

import sys
from collections.abc import Callable

import comfy.model_patcher
import comfy.utils
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..progress import Progress
from .runtime import LATENT_FORMAT


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


def text_display() -> Callable[[str], None]:
    """Shows a text on the node that is running now; does nothing where no server runs."""
    prompt_server = getattr(sys.modules.get("server"), "PromptServer", None)  # importing it would start one
    server, context = getattr(prompt_server, "instance", None), get_executing_context()
    send = getattr(server, "send_progress_text", None)
    if send is None or context is None:
        return lambda text: None
    return lambda text: send(text, context.node_id)
