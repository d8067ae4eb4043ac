"""Which video tokens hear which speaker.

The audio attention of a token is the sum over the speakers of what each of them alone would make of it, times a weight. Tokens are computed
for those speakers only whose weight is not 0, so that regions which do not overlap cost no more than one speaker everywhere.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .shards import EVEN, Part


class Hearers(NamedTuple):
    """The video tokens that hear one speaker, as many in each latent frame.

    Attributes:
        rows: [F * m] places among the video tokens, frame by frame; a frame with fewer hearers names others of its tokens, too.
        weights: [F * m, 1] float32, 0 for those others.
    """

    rows: Tensor
    weights: Tensor


class Regions:
    """How much each video token hears each speaker, the same in every step of a clip.

    Args:
        weights: [speakers, F, h / 2, w / 2]; 1 in the region of a speaker, 0 outside. Where regions overlap or have soft edges a token
            hears the sum: weights that add up to 1 mix the speakers.
    """

    def __init__(self, weights: Tensor):
        self.weights = weights.float().cpu()
        self._kept: dict[Hashable, list[Hearers | None]] = {}

    def of_latents(self, latents: Sequence[int]) -> "Regions":
        """The regions in some latent frames."""
        return Regions(self.weights[:, list(latents)])

    def hearers(self, device: torch.device, part: Part | None = None) -> list[Hearers | None]:
        """Who hears each speaker; None where all video tokens hear it with weight 1.

        Args:
            part: of the tokens, where several GPUs share them; places are then those among its own.
        """
        key = device, part and part.place
        if key not in self._kept:
            weights = self.weights.flatten(2)  # [speakers, F, h / 2, w / 2] -> [speakers, F, n]
            own = weights if part is None else part.video_of(weights.flatten(1)).unflatten(1, (weights.shape[1], -1))
            self._kept[key] = [_hearers(speaker, device) for speaker in own]
        return self._kept[key]


def _hearers(weights: Tensor, device: torch.device) -> Hearers | None:
    """[F, n] weights of one speaker."""
    if bool((weights == 1).all()):
        return None
    frame_tokens = weights.shape[1]
    most = int((weights != 0).sum(dim=1).max())
    most = min(-(-most // EVEN) * EVEN, frame_tokens)
    order = (weights != 0).int().argsort(dim=1, descending=True, stable=True)[:, :most]  # those that hear come first
    rows = order + frame_tokens * torch.arange(len(weights))[:, None]
    return Hearers(rows.flatten().to(device), weights.gather(1, order).reshape(-1, 1).to(device))
