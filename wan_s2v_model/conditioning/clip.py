"""What the transformer is told about a clip, and the frames of history that a clip starts from.

Pixels are [T, H, W, 3] float in [0, 1], as ComfyUI passes them; 0.5 is the reference's value 0 (mid-grey).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..constants import MOTION_FRAMES, START_FRAMES
from .picture import GREY, fit_frames

ALL_STEPS = 0.0, 1.0  # shares of the steps


@dataclass(frozen=True)
class ClipConditioning:
    """What the transformer is told about one clip, beside the text; latents are normalised.

    Attributes:
        audio_embedding: [1, layers, channels, frames], or with the 73 frames before the clip behind them. ref_latents: [1, 16, 1, h, w].
        motion_latents: [1, 16, 19, h, w] or None in a clip that starts freely. pose_latents: [1, 16, F, h, w] or None.
        pose_steps: shares of the steps between which the pose is seen.
    """

    audio_embedding: Tensor
    ref_latents: Tensor
    motion_latents: Tensor | None = None
    pose_latents: Tensor | None = None
    pose_steps: tuple[float, float] = ALL_STEPS


def first_history(height: int, width: int, previous: Tensor | None = None) -> Tensor:
    """[73, height, width, 3]: grey, with the newest frames replaced by those given ([T, height, width, 3])."""
    history = torch.full((MOTION_FRAMES, height, width, 3), GREY)
    if previous is not None:
        newest = previous[-MOTION_FRAMES:]
        history[MOTION_FRAMES - newest.shape[0] :] = newest
    return history


def start_from_picture(history: Tensor, picture: Tensor) -> Tensor:
    """The reference's `init_first_frame`: the last 6 frames of the history are the picture [H, W, 3]."""
    history = history.clone()
    history[-START_FRAMES:] = picture
    return history


def start_history(picture: Tensor, previous: Tensor | None, *, from_picture: bool, cover: bool) -> Tensor | None:
    """The frames before clip 0, [73, H, W, 3]; None where it starts freely.

    Args:
        picture: [H, W, 3], of the video's size. previous: [T, H', W', C], the end of another video to continue, or None.
        from_picture: the newest frames are the picture. cover: as in `fit_frames`.
    """
    if previous is None and not from_picture:
        return None
    height, width = picture.shape[:2]
    fitted = None if previous is None else fit_frames(previous[-MOTION_FRAMES:], height, width, cover=cover)
    history = first_history(height, width, fitted)
    return start_from_picture(history, picture) if from_picture else history


def append_history(history: Tensor, frames: Tensor) -> Tensor:
    """Keep the newest 73 frames: [73, H, W, 3] + [T, H, W, 3] -> [73, H, W, 3]."""
    newest = frames[-MOTION_FRAMES:]
    return newest if len(newest) == MOTION_FRAMES else torch.cat([history[len(newest) :], newest])
