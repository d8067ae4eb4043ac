"""What nodes ask ComfyUI for: cancelling, free memory, versions, its files and folders."""

import glob
import itertools
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfyui_version
import folder_paths
import torch
from comfy_api.latest import InputImpl
from comfy_execution.utils import get_executing_context

from ..conditioning.dub import SourceImages, SourceVideo
from ..conditioning.pose import PoseGuide, PoseImages, PoseVideo
from ..files import remove_abandoned, take_name
from ..media.file_names import fill_in, prefix_problem
from ..media.pictures import read_pictures
from ..media.video_reader import VideoReader
from ..media.video_source import VideoSource, source_of_file, source_of_images
from ..untrusted import shown

logger = logging.getLogger("wan_s2v")

LATENT_FORMAT = comfy.latent_formats.Wan21()
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt (a BaseException) when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def metadata_enabled() -> bool:
    """Whether the user lets ComfyUI write workflows into files."""
    return not comfy.cli_args.args.disable_metadata


def free_host_memory() -> int:
    """Bytes of main memory that are free."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))


class PlaceInList(NamedTuple):
    """Which of the inputs of a list a node is working on, from 0."""

    prompt_id: str
    node_id: str
    item: int


def place_in_list() -> PlaceInList | None:
    """Where ComfyUI is; None outside of a prompt."""
    context = get_executing_context()
    return None if context is None else PlaceInList(context.prompt_id, context.node_id, context.list_index or 0)


def versions(model: comfy.model_patcher.ModelPatcher) -> dict[str, str]:
    """With what a MODEL is sampled: versions of this pack, of torch and of ComfyUI, its file and its devices."""
    devices = [model.load_device, *(clone.load_device for clone in model.get_additional_models_with_key("multigpu"))]
    names = [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type for device in devices]
    factory = model.cached_patcher_init
    source = factory[1][0] if factory is not None and factory[1] else ""
    return {
        "pack": _pack_version(),
        "torch": torch.__version__,
        "comfyui": comfyui_version.__version__,
        "model_file": Path(source).name if isinstance(source, str | Path) else "",
        "devices": ", ".join(names),
    }


def _pack_version() -> str:
    found = re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE) if PROJECT.is_file() else None
    return found[1] if found else "unknown"


class FilePart(NamedTuple):
    """A video file, and the part of it that is used; a length of 0 reaches to the end."""

    source: str | BytesIO
    start_s: float
    length_s: float


def file_of_video(video: Any) -> FilePart | None:
    """The file behind a VIDEO; None where there is none, and its pictures are in memory."""
    if isinstance(video, InputImpl.VideoFromFile):
        return FilePart(video.get_stream_source(), *video.get_active_trim_window())
    return None


@dataclass(frozen=True)
class ConnectedPose:
    """A pose as ComfyUI brings it; of a VIDEO that is a file the pictures are read as they are needed.

    Attributes:
        images: [T, H, W, 3] at `fps`, or None. video: VIDEO, or None.
        strength, steps, end: how it counts, as in `PoseGuide`.
    """

    images: torch.Tensor | None
    fps: float
    video: Any
    strength: float
    steps: tuple[float, float]
    end: str

    def require_readable(self) -> None:
        """Raise ValueError where the VIDEO is a file that cannot be read."""
        if self.images is None and file_of_video(self.video) is not None:
            with self.opened():
                pass

    @contextmanager
    def opened(self) -> Iterator[PoseGuide]:
        """The pose for a plan.

        Raises:
            ValueError: the VIDEO cannot be read.
        """
        with self._open() as video:
            yield PoseGuide(video, self.strength, self.steps, self.end)

    def _open(self) -> AbstractContextManager[PoseVideo]:
        if self.images is not None:
            return nullcontext(PoseImages(self.images, self.fps))
        file = file_of_video(self.video)
        if file is not None:
            return VideoReader(*file)
        parts = self.video.get_components()
        return nullcontext(PoseImages(read_pictures("video", parts.images), parts.frame_rate))


def source_video(images: torch.Tensor | None, fps: float, video: Any) -> SourceVideo:
    """Frames at `fps`, or a VIDEO, as what is dubbed; a file is read as it is needed.

    Raises:
        ValueError: the VIDEO cannot be read, or has no pictures.
    """
    if images is not None:
        return SourceImages(images, fps)
    file = file_of_video(video)
    if file is not None:
        return VideoReader(*file)
    parts = video.get_components()
    return SourceImages(read_pictures("source_video", parts.images), parts.frame_rate)


def open_video(video: Any) -> AbstractContextManager[VideoSource]:
    """A VIDEO that is to be written: a file is read as it is needed, anything else gives its components.

    Raises:
        ValueError: it cannot be read.
    """
    file = file_of_video(video)
    if file is not None:
        return source_of_file(*file)
    parts = video.get_components()
    return nullcontext(source_of_images(parts.images, parts.audio, parts.frame_rate))


def png_info(hidden: Any) -> Mapping[str, Any]:
    """What a prompt brings for its files, the canvas's workflow for one; a client can send anything there."""
    info = getattr(hidden, "extra_pnginfo", None)
    return {str(name): value for name, value in info.items()} if isinstance(info, Mapping) else {}


def new_output_file(filename_prefix: str, width: int, height: int, suffix: str, hidden: Any) -> tuple[Path, str]:
    """The next free file name in the output folder, taken by its empty part, and its folder below that; abandoned parts are removed.

    Args:
        hidden: of the node, with the prompt and the canvas's workflow, from which the patterns of the prefix take their values.
    Raises:
        ValueError: what the patterns stand for cannot be a name.
    """
    workflow = png_info(hidden).get("workflow")
    filename_prefix, unknown = fill_in(filename_prefix, getattr(hidden, "prompt", None), workflow, datetime.now())
    if unknown:
        logger.warning("filename_prefix: the graph has no value for %s; it stays as it is", ", ".join(unknown))
    if problem := prefix_problem(filename_prefix):
        raise ValueError(problem)
    output = folder_paths.get_output_directory()
    folder, name, *_ = folder_paths.get_save_image_path(filename_prefix, output, width, height)
    remove_abandoned(Path(folder).glob(f"{glob.escape(name)}_*_.part.*"))
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(filename_prefix, output, width, height)
    names = (Path(folder) / f"{name}_{number:05}_.{suffix}" for number in itertools.count(counter))
    return next(filter(take_name, names)), subfolder


def find_file(path: str) -> Path | None:
    """A file in ComfyUI's output, input or temp folder, None if it is not there; a relative path starts in output."""
    folders = [Path(folder_paths.get_output_directory()), Path(folder_paths.get_input_directory()), Path(folder_paths.get_temp_directory())]
    try:
        file = (folders[0] / path).resolve()
        is_inside = any(file.is_relative_to(folder.resolve()) for folder in folders)
        return file if is_inside and file.is_file() else None
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return None


def require_file(path: str) -> Path:
    """As `find_file`.

    Raises:
        ValueError: it is not there.
    """
    file = find_file(path)
    if file is None:
        raise ValueError(
            f"There is no file {shown(path)} in ComfyUI's output, input or temp folder. "
            "Give the path of Save Video (Wan S2V), or connect Load Video to video."
        )
    return file
