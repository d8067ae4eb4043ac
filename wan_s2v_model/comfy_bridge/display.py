"""Progress, a line of text and a preview picture on the node that is running."""

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyAPISync
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ..sampling.progress import Progress, ProgressLog
from ..untrusted import without_markup
from .gpus import gpus_of
from .model import computation_of
from .runtime import LATENT_FORMAT, raise_if_interrupted

logger = logging.getLogger("wan_s2v")
Result = TypeVar("Result")
SHARE_STEPS = 100  # into which the bar of `share_reporter` is divided


class RunDisplay:
    """Shows a run on its node (bar, text, latent preview) and in the log, and in the end what was made or where it stopped.

    Args:
        num_frames: of the video. take: what stands on the node below each line. remark: more to say in the end.
        below: more that stands there, and may change.
    """

    def __init__(
        self,
        model: comfy.model_patcher.ModelPatcher,
        progress: Progress,
        num_frames: int,
        take: str = "",
        remark: Callable[[], str] = lambda: "",
        below: Callable[[], str] = lambda: "",
    ) -> None:
        import latent_preview  # a module of ComfyUI's root, not of `comfy`

        self._progress = progress
        self._num_frames = num_frames
        self._take, self._below = take, below
        self._remark = remark
        self._previewer = latent_preview.get_previewer(model.load_device, LATENT_FORMAT)
        self._show_text = text_display()
        self._lock = threading.Lock()  # of the progress, which the log reads in a thread of its own
        self._log = ProgressLog(self._line)

    def begin(self, clip: int) -> None:
        """The sampling of a clip begins. The bar says the same number again, by which the command line knows it."""
        with self._lock:
            self._progress.begin(clip)
        self._show(clip * self._progress.steps_per_clip)

    def step(self, done: int, x0: Tensor) -> None:
        """So many steps of the whole run are done; x0 are the predicted latents."""
        with self._lock:
            self._progress.step(done)
        self._show(done, None if self._previewer is None else self._previewer.decode_latent_to_preview_image("JPEG", x0))

    def during(self, phase: str, work: Callable[..., Result]) -> Callable[..., Result]:
        """The work, during which the phase is shown in place of the step."""

        def run(*arguments: Any, **options: Any) -> Result:
            with self._progress.phase(phase):
                self._show_line()
                return work(*arguments, **options)

        return run

    def _show(self, done: int, preview: tuple | None = None) -> None:
        self._show_line()  # before the bar moves, so that the command line, which shows both, has the new line by then
        total = self._progress.num_clips * self._progress.steps_per_clip
        comfy.utils.ProgressBar(total).update_absolute(done, total, preview)  # a bar leaves out small steps, but never its first

    def _show_line(self) -> None:
        self._show_text(self._line() + self._take + self._below())
        self._log.show()

    def _line(self) -> str:
        with self._lock:
            return self._progress.line()

    def __enter__(self) -> "RunDisplay":
        self._log.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._log.__exit__(kind, error, traceback)
        ending = self._progress.end(self._num_frames) if kind is None else self._progress.stop()
        last_words = "; ".join(filter(None, (ending, self._remark())))
        self._show_text(last_words + self._take + self._below())
        logger.info("%s", last_words)


def show_computation(model: comfy.model_patcher.ModelPatcher) -> None:
    """Say on the node that is running, and in the log, with what a MODEL with our forward computes and what of it is not exact."""
    text = computation_in_words(model)
    text_display()(text)
    logger.info("%s", text)


def computation_in_words(model: comfy.model_patcher.ModelPatcher, rounded: str = "") -> str:
    """With what a MODEL with our forward computes; where the GPU has no room for the self-tests they wait for the sampler.

    Of GPUs that do not compute alike each is named. rounded: what is kept in few bits beside it.
    """
    try:
        texts = {gpu.load_device: computation_of(model, gpu.load_device, rounded).text for gpu in gpus_of(model)}
    except torch.OutOfMemoryError:
        return "The GPU is too full to try its kernels now; when the model is sampled the log says with what it computes"
    return " / ".join(f"{device} {text}" for device, text in texts.items()) if len(set(texts.values())) > 1 else texts[model.load_device]


def lines_without_effect(model: comfy.model_patcher.ModelPatcher) -> str:
    """Lines for below a sampler's own: what of the loader's `speed` does nothing on a GPU of the MODEL; "" where all of it acts."""
    found: dict[str, list[str]] = {}
    with suppress(torch.OutOfMemoryError):  # the log says it when there is room
        for gpu in gpus_of(model):
            for sentence in computation_of(model, gpu.load_device).without_effect:
                found.setdefault(sentence, []).append(str(gpu.load_device))
    is_for_all = len(gpus_of(model)) == 1
    return "".join(f"\n{sentence}" if is_for_all else f"\n{', '.join(devices)}: {sentence}" for sentence, devices in found.items())


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
    """Shows a text on the node that is running now, for whoever queued it; does nothing where nobody can see it."""
    audience = _audience()
    if audience is None:
        return lambda text: None

    def show(text: str) -> None:
        text = without_markup(text)
        for node_id in audience.node_ids:
            audience.server.send_progress_text(text, node_id, audience.client_id)

    return show


def file_shower() -> Callable[[Path], None]:
    """A function that shows a video file on the current node; it may be called from any thread.

    It sends the message with which ComfyUI tells what a node shows in the end. Without a server, without a browser, or for a file
    outside ComfyUI's output and temp folders it does nothing.
    """
    audience = _audience()
    if audience is None:
        return lambda path: None

    def show(path: Path) -> None:
        output = _video_output(path)
        for node_id in audience.node_ids if output is not None else ():
            message = {"node": node_id, "display_node": node_id, "output": output, "prompt_id": audience.prompt_id}
            audience.server.send_sync("executed", message, audience.client_id)

    return show


class _Audience(NamedTuple):
    """Who sees a message of the node that is running, and where.

    Attributes:
        client_id: the browser that queued the prompt; a message without one would go to all that are open.
        node_ids: of the node, and of the subgraph nodes around it, which are what is on the canvas: "5:3", "5".
    """

    server: Any
    client_id: str
    prompt_id: str
    node_ids: list[str]


def _audience() -> _Audience | None:
    context = get_executing_context()
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)  # importing it would start one
    if context is None or server is None or server.client_id is None:
        return None
    parts = context.node_id.split(":")
    node_ids = [":".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return _Audience(server, server.client_id, context.prompt_id, node_ids)


def _video_output(path: Path) -> dict | None:
    """What a node with a video has for the browser."""
    folders = {"output": folder_paths.get_output_directory(), "temp": folder_paths.get_temp_directory()}
    for kind, folder in folders.items():
        if path.is_relative_to(folder):
            subfolder = path.parent.relative_to(folder).as_posix()
            return {"images": [{"filename": path.name, "subfolder": subfolder, "type": kind}], "animated": (True,)}
    return None
