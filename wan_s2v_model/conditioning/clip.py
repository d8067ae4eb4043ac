"""What the transformer is told about a clip, and the frames of history that a clip starts from.

Pixels are [T, H, W, 3] float in [0, 1], as ComfyUI passes them; 0.5 is the reference's value 0 (mid-grey).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..constants import MOTION_FRAMES, START_FRAMES, TEMPORAL_STRIDE
from .picture import GREY, fit_frames

ALL_STEPS = 0.0, 1.0  # shares of the steps


@dataclass(frozen=True)
class KeptSource:
    """What of a clip is that of another video.

    Attributes:
        latents: [1, 16, F, h, w] of that video. may_change: [1, 1, F, h, w] bool, where they are not kept.
    """

    latents: Tensor
    may_change: Tensor


@dataclass(frozen=True)
class ClipConditioning:
    """What the transformer is told about one clip, beside the text; latents are normalised.

    Attributes:
        audio_embedding: [1, layers, channels, frames], or with the 73 frames before the clip behind them. ref_latents: [1, 16, 1, h, w].
        motion_latents: [1, 16, 19, h, w] or None in a clip that starts freely. pose_latents: [1, 16, F, h, w] or None.
        pose_steps: shares of the steps between which the pose is seen. kept: what stays as it is in a dubbed video.
        hearing: how much each token hears each of several speakers, [speakers, F, h / 2, w / 2]; their sounds are stacked,
            [1, speakers, layers, channels, frames]. None: all hear the one sound.
    """

    audio_embedding: Tensor
    ref_latents: Tensor
    motion_latents: Tensor | None = None
    pose_latents: Tensor | None = None
    pose_steps: tuple[float, float] = ALL_STEPS
    hearing: Tensor | None = None
    kept: KeptSource | None = None


def latents_of_window(window: Any) -> list[int]:
    """The latents of a clip that one of ComfyUI's context windows shows."""
    anchor = getattr(window, "causal_anchor_index", None)  # a latent in front of the window, cut off again behind the model
    return [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]


def sound_of_latents(audio_embedding: Tensor, latents: Sequence[int], num_latent_frames: int) -> Tensor:
    """The sound of some latents of a clip, such as those that a context window shows.

    Args:
        audio_embedding: [B, layers, channels, 4F], or with the 73 frames before the clip behind them. num_latent_frames: F.
    Returns:
        The same for the latents alone; the 73 frames behind them are those before the first one.
    """
    num_frames = TEMPORAL_STRIDE * num_latent_frames
    sound, before = audio_embedding[..., :num_frames], audio_embedding[..., num_frames:]
    shown = sound[..., [TEMPORAL_STRIDE * latent + frame for latent in latents for frame in range(TEMPORAL_STRIDE)]]
    if before.shape[-1] != MOTION_FRAMES:
        return shown
    first = TEMPORAL_STRIDE * latents[0]
    return torch.cat([shown, torch.cat([before, sound], dim=-1)[..., first : first + MOTION_FRAMES]], dim=-1)


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
    Raises:
        ValueError: both are wanted.
    """
    height, width = picture.shape[:2]
    if previous is None:
        return start_from_picture(first_history(height, width), picture) if from_picture else None
    if from_picture:
        raise ValueError(
            f"previous_frames continue another video, and first_frame 'from picture' would put the picture in place of their newest "
            f"{START_FRAMES} frames. Set first_frame to free, or disconnect previous_frames."
        )
    return first_history(height, width, fit_frames(previous[-MOTION_FRAMES:], height, width, cover=cover))


def append_history(history: Tensor, frames: Tensor) -> Tensor:
    """Keep the newest 73 frames: [73, H, W, 3] + [T, H, W, 3] -> [73, H, W, 3]."""
    newest = frames[-MOTION_FRAMES:]
    return newest if len(newest) == MOTION_FRAMES else torch.cat([history[len(newest) :], newest])
