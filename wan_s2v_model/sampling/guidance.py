"""How strongly prompt and sound guide each step, and which model calls a step needs for it.

Three predictions take part: of the prompt with the sound, of the prompt in silence, and of the negative prompt in silence.

    v = negative + cfg * (silent - negative) + audio_cfg * (heard - silent)

With equal scales `silent` cancels out: negative + cfg * (heard - negative), the guidance of the reference.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ..constants import MOTION_LATENTS
from .schedule import guided_levels, guided_steps


@dataclass(frozen=True)
class AudioGuidance:
    """What decides how much the sound counts, beside the guidance by the prompt.

    Attributes:
        cfg: scale of the difference that the sound makes. start, end: shares of the steps between which it holds.
        strength: of the sound itself in every call: 0 is silence, 1 the sound.
    """

    cfg: float
    start: float = 0.0
    end: float = 1.0
    strength: float = 1.0


@dataclass(frozen=True)
class SamplingOptions:
    """What trades quality for time.

    Attributes:
        cfg_start, cfg_end: shares of the steps between which there is guidance. vae_warmup: latents decoded in front of a later clip.
    """

    cfg_start: float = 0.0
    cfg_end: float = 1.0
    vae_warmup: int = MOTION_LATENTS


NO_OPTIONS = SamplingOptions()  # as the reference


@dataclass(frozen=True)
class Scale:
    """A guidance scale that holds in some steps; in the others it is 1, which is no guidance.

    Attributes:
        levels: the noise levels of the steps: above the first number, up to the second.
    """

    value: float
    steps: range
    levels: tuple[float, float] = (-math.inf, math.inf)

    @classmethod
    def between(cls, value: float, start: float, end: float, sigmas: Tensor) -> "Scale":
        """A scale that holds between two shares of the steps; 1 and less is no guidance, as in the reference.

        Args:
            sigmas: [number of steps + 1], descending.
        """
        steps = guided_steps(len(sigmas) - 1, start, end)
        return cls(max(1.0, value), steps, guided_levels(sigmas, steps))

    @property
    def is_constant(self) -> bool:
        """Whether it is the same at every noise level: then none has to be fetched from the GPU, which would wait for its work."""
        return self.value == 1 or self.levels == (-math.inf, math.inf)

    def in_step(self, step: int) -> float:
        return self.value if step in self.steps else 1.0

    def at(self, level: float) -> float:
        """The scale at a noise level, which may lie inside of a step."""
        lowest, highest = self.levels
        return self.value if lowest < level <= highest else 1.0


def audio_scale(audio: AudioGuidance | None, text: Scale, sigmas: Tensor) -> Scale:
    """The scale of the sound: without settings of its own it is that of the prompt."""
    return text if audio is None else Scale.between(audio.cfg, audio.start, audio.end, sigmas)


def model_calls(cfg: float, audio_cfg: float, num_positive: int = 1, num_negative: int = 1) -> int:
    """Model calls of a step at these scales, with so many conditionings in either prompt."""
    silent = num_positive if audio_cfg != cfg else 0
    return num_positive + silent + (num_negative if cfg != 1 else 0)
