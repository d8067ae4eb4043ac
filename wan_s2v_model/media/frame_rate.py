"""Another frame rate for the same time: which picture is shown when. Integers only, no tensors."""

from dataclasses import dataclass
from fractions import Fraction

from ..constants import FRAME_RATES, VIDEO_FPS

ROUNDED = 1e-4  # fps, of a rate with two or three decimals
LEAST_INTERPOLATED = 2  # pictures between which there is something to make
LARGEST_DENOMINATOR = 1001  # of a frame rate: 30000/1001


@dataclass(frozen=True)
class Conversion:
    """Pictures at one rate, picked from those at another.

    Attributes:
        pictures: number of the source picture for each of the target.
        num_repeated: pictures that are the one before once more, without those held at the end.
        num_held: repeats of the last one, because the source ends earlier than what it was interpolated from.
    """

    source_fps: Fraction
    target_fps: Fraction
    num_source: int
    pictures: list[int]
    num_repeated: int
    num_held: int

    @property
    def num_left_out(self) -> int:
        return self.num_source - len(set(self.pictures))

    def describe(self) -> str:
        """What was done, in a sentence or two."""
        count, source, target = len(self.pictures), float(self.source_fps), float(self.target_fps)
        parts = [f"{self.num_source} pictures at {source:g} fps became {count} at {target:g} fps, {float(count / self.target_fps):.2f} s"]
        if self.num_left_out:
            parts.append(f"{self.num_left_out} were left out")
        if self.num_held:
            parts.append(f"the last one is held for {self.num_held} more, where the interpolation ended")
        if not self.num_repeated:
            return f"{'; '.join(parts)}; none is repeated."
        return (
            f"{'; '.join(parts)}; {self.num_repeated} only repeat the one before, so nothing moves more smoothly. "
            "For smooth motion put an interpolation node such as RIFE or FILM in front, and give its rate as source_fps."
        )


def exact_rate(fps: float | Fraction) -> Fraction:
    """The frame rate that a rounded number stands for: 29.97 is 30000/1001."""
    television = Fraction(round(fps) * 1000, 1001)
    return television if abs(float(fps) - float(television)) < ROUNDED else Fraction(fps).limit_denominator(LARGEST_DENOMINATOR)


def rate_by_sound(num_pictures: int, sound_s: float) -> float:
    """The frame rate of pictures that belong to a sound: a multiple of a rate of the model where they fit an interpolation."""
    if sound_s <= 0:
        return float(VIDEO_FPS)
    for fps in (fps for fps in FRAME_RATES if sound_s * fps >= LEAST_INTERPOLATED):
        n = round(sound_s * fps)
        factor = max(1, round((num_pictures - 1) / (n - 1)))
        if num_pictures in (n * factor, (n - 1) * factor + 1):
            return float(fps * factor)
    return round(num_pictures / sound_s, 3)


def convert(num_source: int, source_fps: float, target_fps: float) -> Conversion:
    """Pick a picture for each moment of the target; the duration stays as it is.

    Each picture stands for the moment at which it appears. The one shown has appeared by half of the shorter picture time after the moment:
    no flash comes early or late by more than that, k pictures in the place of one keep its time exactly, and every k-th one is an original.

    Interpolation makes (n - 1) * k + 1 pictures of n, as nothing follows the last one. Where the source is k times 16 or 25 fps and its
    count fits this, the video lasts as long as those n did, and its last picture is held.

    Args:
        num_source: at least 1.
    """
    source, target = exact_rate(source_fps), exact_rate(target_fps)
    duration_s = (num_source + _missing(num_source, source)) / source
    lead_s = 1 / (2 * max(source, target))
    wanted = [int((moment / target + lead_s) * source) for moment in range(max(1, int(duration_s * target + Fraction(1, 2))))]
    pictures = [min(number, num_source - 1) for number in wanted]
    repeats = [moment for moment in range(1, len(pictures)) if pictures[moment] == pictures[moment - 1]]
    num_held = sum(wanted[moment] >= num_source for moment in repeats)
    return Conversion(source, target, num_source, pictures, len(repeats) - num_held, num_held)


def _missing(num_source: int, source_fps: Fraction) -> int:
    """Pictures that an interpolation by a whole number has not made behind the last one."""
    factors = (source_fps / fps for fps in FRAME_RATES)
    fitting = (factor for factor in factors if factor.denominator == 1 and factor > 1 and num_source % factor == 1)
    return int(next(fitting, 1)) - 1
