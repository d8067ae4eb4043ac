"""Frames in between, as interpolation nodes make them: (n - 1) * k + 1 of n, the first and the last one original."""

from __future__ import annotations

from typing import ClassVar

import torch


class StandInInterpolation:
    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("IMAGE",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"frames": ("IMAGE",), "multiplier": ("INT", {"min": 1})}})

    def make(self, frames, multiplier):
        moments = torch.arange((len(frames) - 1) * multiplier + 1)
        before = moments // multiplier
        after = (before + 1).clamp_max(len(frames) - 1)
        return (torch.lerp(frames[before], frames[after], (moments % multiplier / multiplier)[:, None, None, None]),)
