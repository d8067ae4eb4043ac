"""Several speakers on the command line: each a sound and a place in the picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_SPEAKERS = 4
BOX = re.compile(r"[\d.]+%?(?:[ ,]+[\d.]+%?){3}")
SHAPE = "SOUND:MASK or SOUND:BOX, with a picture (white or transparent: the speaker) or a box, 50%,0,50%,100%; without a sound one listens"


@dataclass(frozen=True)
class Speaker:
    """A sound, None for one who listens, and where in the picture: a mask's file or a box in words."""

    sound: Path | None
    place: Path | str


def parse_speaker(text: str) -> Speaker:
    """Read SOUND:PLACE, cut at that colon which leaves files or a box on both sides: a drive of Windows has one, too.

    Raises:
        ValueError: with what is wrong.
    """
    cuts = [(text[: match.start()], text[match.end() :]) for match in re.finditer(":", text)]
    for sound, place in cuts:
        if (not sound or Path(sound).is_file()) and (BOX.fullmatch(place.strip()) or Path(place).is_file()):
            return Speaker(Path(sound) if sound else None, place.strip() if BOX.fullmatch(place.strip()) else Path(place))
    missing = [part for part in cuts[-1] if part and not BOX.fullmatch(part) and not Path(part).is_file()] if len(cuts) == 1 else []
    raise ValueError(f"must be {SHAPE}; got {text!r}" + (f": there is no file {missing[0]}" if missing else ""))


def problem_of(speakers: Sequence[Speaker]) -> str | None:
    """What is wrong with all of them together, None if nothing."""
    if len(speakers) > MOST_SPEAKERS:
        return f"--speaker: there may be {MOST_SPEAKERS}, got {len(speakers)}."
    if speakers and not any(speaker.sound for speaker in speakers):
        return "--speaker: nobody has a sound. Give at least one as SOUND:PLACE."
    return None
