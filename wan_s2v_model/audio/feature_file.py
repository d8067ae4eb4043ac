"""Where the features of a sound live: short ones in memory, long ones in half precision in a mapped file."""

import logging
import mmap
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..constants import VIDEO_FPS
from .features import layer_at_fps

logger = logging.getLogger("wan_s2v")

FLOAT32_SECONDS = 600  # longest sound whose features stay in float32 in memory: 1 GB; the reference feeds float32
HALF_MAX = torch.finfo(torch.float16).max


def collect_features(layers: Iterable[Tensor], num_frames: int, folder: Path, fps: int = VIDEO_FPS) -> Tensor:
    """Resample each layer as soon as it is there, and keep it.

    Args:
        layers: [frames at 50 Hz, channels] each; may be overwritten when the next one is asked for.
        num_frames: of video, decides where the features are kept.
        folder: for the file of a long sound. fps: frame rate of the video.
    Returns:
        [layers, channels, num_frames]: float32, or float16 in a file that is gone when the tensor is.
    """
    resampled = (layer_at_fps(layer, fps) for layer in layers)
    if num_frames <= FLOAT32_SECONDS * fps:
        return torch.stack(list(resampled))
    logger.info("%.0f minutes of sound: the features are kept in half precision, in a file in %s", num_frames / fps / 60, folder)
    return _in_file(resampled, folder)


def _in_file(layers: Iterable[Tensor], folder: Path) -> Tensor:
    """Frame by frame, so that a clip reads one run of bytes per layer. No name leads to the file, so that not even a crash leaves it."""
    num_layers, shape = 0, torch.Size()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for layer in layers:
                frames = layer.clamp(-HALF_MAX, HALF_MAX).half().T.contiguous()
                file.write(frames.numpy().data)
                num_layers, shape = num_layers + 1, frames.shape
            file.flush()
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        reason = f"The features of this long sound cannot be kept in {folder} ({error.strerror or error})."
        raise OSError(error.errno, f"{reason} Free some GB there, or choose a shorter `duration`.") from error
    return torch.frombuffer(mapping, dtype=torch.float16).view(num_layers, *shape).transpose(1, 2)
