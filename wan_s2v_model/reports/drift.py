"""How the pictures of a long video change from clip to clip: brightness, contrast and colour, sharpness, and the cuts between clips."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..constants import VIDEO_FPS

MEASURED_FRAMES = 16  # per clip, evenly spread
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)
COLUMNS = (  # of the table: heading, width in characters
    *(("clip", 5), ("time s", 9), ("mean R", 8), ("G", 7), ("B", 7), ("spread R", 10), ("G", 7), ("B", 7)),
    *(("sharpness", 11), ("jump", 8), ("step", 8)),
)
CHANNELS = ("red", "green", "blue")

Colours = tuple[float, float, float]  # red, green, blue


@dataclass(frozen=True)
class ClipFigures:
    """What one clip looks like; levels are 0 to 255.

    Attributes:
        num_frames: of the clip. mean, std: of each colour, over pixels and frames; std is the "spread" of the report.
        sharpness: standard deviation of the Laplacian of the luma in per cent of that of the luma; contrast alone does not move it.
        jump: mean difference of a pixel between the last frame of the clip before and the first of this one; None for the first clip.
        step: the same between neighbouring frames inside the clip.
    """

    num_frames: int
    mean: Colours
    std: Colours
    sharpness: float
    jump: float | None
    step: float


def measure_clips(clips: Iterable[Tensor]) -> list[ClipFigures]:
    """The figures of clips [T, H, W, 3] uint8, one after the other; one clip is in memory. A clip without frames has none."""
    figures: list[ClipFigures] = []
    before: Tensor | None = None
    for frames in clips:
        if len(frames) == 0:
            continue
        figures.append(_measure(frames, before))
        before = frames[-1].clone()
    return figures


def _measure(frames: Tensor, before: Tensor | None) -> ClipFigures:
    """Frame by frame, so that little of the clip is ever held as float."""
    chosen = _spread_evenly(len(frames), MEASURED_FRAMES)
    means, squares, sharpness = torch.zeros(3), torch.zeros(3), 0.0
    for number in chosen:
        picture = frames[number].float()
        std, mean = torch.std_mean(picture, dim=(0, 1), correction=0)
        means += mean / len(chosen)
        squares += (std**2 + mean**2) / len(chosen)
        sharpness += _sharpness(picture) / len(chosen)
    steps = [_difference(frames[number], frames[number + 1]) for number in chosen if number + 1 < len(frames)]
    return ClipFigures(
        num_frames=len(frames),
        mean=_colours(means),
        std=_colours((squares - means**2).clamp(min=0).sqrt()),
        sharpness=sharpness,
        jump=None if before is None else _difference(before, frames[0]),
        step=sum(steps) / len(steps) if steps else 0.0,
    )


def _spread_evenly(count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else [index * (count - 1) // (most - 1) for index in range(most)]


def _colours(values: Tensor) -> Colours:
    red, green, blue = values.tolist()
    return red, green, blue


def _sharpness(picture: Tensor) -> float:
    """Of [H, W, 3] float; 0 of a flat picture."""
    luma = picture @ torch.tensor(LUMA)
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    contrast = luma.std(correction=0).item()
    return 100 * (around - 4 * luma[1:-1, 1:-1]).std(correction=0).item() / contrast if contrast > 0 else 0.0


def _difference(first: Tensor, second: Tensor) -> float:
    """Mean over the pixels of two pictures, uint8."""
    return (second.float() - first.float()).abs().mean().item()


def describe_drift(figures: Sequence[ClipFigures], fps: int = VIDEO_FPS) -> str:
    """The figures of a video of this frame rate as a table, and what they come to."""
    rows = [_row([heading for heading, _ in COLUMNS])]
    frame = 0
    for number, clip in enumerate(figures, 1):
        levels = [f"{level:.1f}" for level in (*clip.mean, *clip.std, clip.sharpness)]
        jump = "-" if clip.jump is None else f"{clip.jump:.2f}"
        rows.append(_row([str(number), f"{frame / fps:.2f}", *levels, jump, f"{clip.step:.2f}"]))
        frame += clip.num_frames
    return "\n".join([*rows, "", *_summary(figures)])


def _row(cells: Sequence[str]) -> str:
    return "".join(cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def _summary(figures: Sequence[ClipFigures]) -> list[str]:
    lines = ["Levels are 0 to 255. jump: mean change of a pixel over the border before the clip; step: from frame to frame inside it."]
    if len(figures) < 2:
        return [*lines, "There is one clip, so nothing can drift."]
    for name, of_clip in (("mean", lambda clip: clip.mean), ("spread", lambda clip: clip.std)):
        changes = [(colour, *_change([of_clip(clip)[index] for clip in figures])) for index, colour in enumerate(CHANNELS)]
        texts = ", ".join(f"{colour} {total:+.1f} ({slope:+.2f} per clip)" for colour, total, slope in changes)
        lines.append(f"Drift of the {name} from the first clip to the last: {texts}.")
    lines.append(f"Drift of the sharpness: {_sharpness_change(figures):+.0f} %.")
    number, worst = max(enumerate(figures[1:], 2), key=lambda item: item[1].jump or 0.0)
    lines.append(f"Largest jump: {worst.jump or 0.0:.2f} at the start of clip {number}, where a step is {worst.step:.2f}.")
    return [*lines, "Motion, another posture and a change of scene move these numbers, too: look at the trend over many clips."]


def _change(values: Sequence[float]) -> tuple[float, float]:
    """Last minus first, and the slope of the straight line that fits best."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    slope = sum((index - middle) * (value - mean) for index, value in enumerate(values))
    return values[-1] - values[0], slope / sum((index - middle) ** 2 for index in range(len(values)))


def _sharpness_change(figures: Sequence[ClipFigures]) -> float:
    """In per cent of the first clip."""
    first = figures[0].sharpness
    return (figures[-1].sharpness / first - 1) * 100 if first > 0 else 0.0
