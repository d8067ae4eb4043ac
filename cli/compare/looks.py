"""Whether a clip shows the portrait it was made of, and whether its mouth moves with the sound.

Pictures are grids of 16 x 16 cells of brightness, as the Sync Report reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..doctor.finding import OK, PROBLEM, Finding

try:
    from ...wan_s2v_model.reports.sync_offset import LEAST_HEIGHT, Offset
    from ...wan_s2v_model.reports.sync_tracks import GRID
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.reports.sync_offset import LEAST_HEIGHT, Offset
    from wan_s2v_model.reports.sync_tracks import GRID

MOUTH_ROWS, MOUTH_COLUMNS = slice(6, 9), slice(6, 10)  # of the sample portrait: nose to chin, with room for small turns of the head
LEAST_CONTRAST = 4.0  # standard deviation of the cells of a frame, of 255; black or grey frames have less
LEAST_LIKENESS = 0.5  # correlation with the portrait; noise has 0 on the average and less than 0.35 at most
LEAST_FOCUS = 2.0  # of the mouth over the rest; noise has 1


@dataclass(frozen=True)
class Clip:
    """A video and the picture that it was made of.

    Attributes:
        brightness: [T, cells] of the frames, 0 to 255. reference: [cells] of the picture.
        offset: what the Sync Report measures, None where there is nothing to measure.
    """

    brightness: np.ndarray
    reference: np.ndarray
    offset: Offset | None


def judge_looks(clip: Clip) -> Iterator[Finding]:
    """One verdict each of the values, the likeness and the mouth."""
    yield _values(clip)
    yield _likeness(clip)
    yield _mouth(clip)


def _values(clip: Clip) -> Finding:
    contrast = float(np.median(clip.brightness.std(axis=1))) if len(clip.brightness) else 0.0
    if not np.isfinite(contrast) or contrast < LEAST_CONTRAST:
        text = f"the frames are black, grey or missing (contrast {contrast:.1f} of 255)"
        return Finding(PROBLEM, "Values", text, "A value is not finite, or the VAE does not fit. Report it with this block.")
    return Finding(OK, "Values", f"finite, contrast {contrast:.1f} of 255")


def _likeness(clip: Clip) -> Finding:
    value = likeness(clip.brightness, clip.reference)
    words = f"likeness {value:.2f}, {LEAST_LIKENESS} or more counts"
    if value >= LEAST_LIKENESS:
        return Finding(OK, "Picture", f"it resembles the portrait ({words})")
    text = f"it does NOT resemble the portrait ({words}): noise, as with random or damaged weights"
    return Finding(PROBLEM, "Picture", text, "Look at the other lines: which file is not the one that was published?")


def likeness(brightness: np.ndarray, reference: np.ndarray) -> float:
    """Correlation of frames [T, cells] with a picture [cells], median over the frames; 0 where a frame shows nothing."""
    if not len(brightness):
        return 0.0
    frames = brightness - brightness.mean(axis=1, keepdims=True)
    picture = reference - reference.mean()
    scale = np.linalg.norm(frames, axis=1) * np.linalg.norm(picture)
    return float(np.median(np.divide(frames @ picture, scale, out=np.zeros(len(frames)), where=scale > 0)))


def _mouth(clip: Clip) -> Finding:
    topic, offset = "Mouth", clip.offset
    if offset is None:
        return Finding(PROBLEM, topic, "not measured: the clip is too short, or nothing in it moves", "Give --seconds 5 or more.")
    if not offset.is_certain:
        words = f"peak {offset.height:.1f}; {LEAST_HEIGHT:g} or more counts, if it is narrow"
        text = f"nothing in the picture follows the sound ({words}): as with random weights"
        return Finding(PROBLEM, topic, text, "If the picture is right, try --seconds 10 and --steps 20: a short clip may hide it.")
    focus = mouth_focus(offset.region)
    words = f"{focus:.1f} times as much as the rest, {LEAST_FOCUS:g} or more counts; picture {offset.lead.value_ms:+.0f} ms early"
    if focus >= LEAST_FOCUS:
        return Finding(OK, topic, f"it follows the sound ({words})")
    return Finding(
        PROBLEM, topic, f"something follows the sound, but it is NOT the mouth ({words})", "Look at the clip that `predict` makes."
    )


def mouth_focus(region: np.ndarray) -> float:
    """By how much the mouth follows the sound more than the rest: mean weight [cells] inside over outside, 99 at most."""
    mouth = np.zeros((GRID, GRID), dtype=bool)
    mouth[MOUTH_ROWS, MOUTH_COLUMNS] = True
    inside, outside = region[mouth.ravel()].mean(), region[~mouth.ravel()].mean()
    return float(min(99.0, inside / max(outside, 1e-9)))
