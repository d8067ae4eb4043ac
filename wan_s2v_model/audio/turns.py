"""Who has the turn, by times: a line for each change."""

import re
from dataclasses import dataclass

from ..untrusted import shown

LINE = re.compile(
    r"(?:(?:(?P<h>\d{1,6}):)?(?P<m>\d{1,6}):(?P<s>\d\d(?:\.\d+)?)|(?P<seconds>\d{1,6}(?:\.\d+)?)\s*s):?\s+(?P<who>.+)", re.IGNORECASE
)
NAMES = re.compile(r"speakers?|and|[,+&\s]", re.IGNORECASE)  # between the numbers
SPEAKER = re.compile(r"\d{1,3}")
NOBODY = ("nobody", "-")
EXAMPLE = "Write a time and who speaks from then on: 0:00 1, 12.5s 2, 0:20 1 and 2, 0:30 nobody."


@dataclass(frozen=True)
class Turn:
    """From when on which speakers are heard; they count from 1."""

    start_s: float
    speakers: frozenset[int]


def parse_turns(text: str) -> tuple[Turn, ...]:
    """Read one turn per line; empty lines and lines that begin with # are left out. No line: everybody has the turn all the time.

    Raises:
        ValueError: a line cannot be read, the first one does not begin at 0, or they are not in order.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    turns = [(number, _parse(number, line)) for number, line in lines if line and not line.startswith("#")]
    before = -1.0
    for number, turn in turns:
        if before < 0 < turn.start_s:
            raise ValueError(f"The first turn begins at {turn.start_s:g} s. Begin it with 0:00, so that it is clear who speaks first.")
        if turn.start_s <= before:
            raise ValueError(f"Line {number} of the turns begins at {turn.start_s:g} s, not behind the one before. Put them in order.")
        before = turn.start_s
    return tuple(turn for _, turn in turns)


def _parse(number: int, line: str) -> Turn:
    match = LINE.fullmatch(line)
    who = NAMES.sub(" ", match["who"]).split() if match else []
    if not match or not (match["who"].strip().lower() in NOBODY or (who and all(map(SPEAKER.fullmatch, who)))):
        raise ValueError(f"Line {number} of the turns cannot be read: got {shown(line)}. {EXAMPLE}")
    seconds = float(match["s"] or match["seconds"]) + 60 * int(match["m"] or 0) + 3600 * int(match["h"] or 0)
    return Turn(seconds, frozenset(int(name) for name in who if SPEAKER.fullmatch(name)))


def spans_of(turns: tuple[Turn, ...], speaker: int, fps: int) -> list[tuple[int, int | None]]:
    """Frames [start, end) in which a speaker has the turn; an end of None is that of the video."""
    if not turns:
        return [(0, None)]
    borders = [round(turn.start_s * fps) for turn in turns]
    return [
        (start, end)
        for turn, start, end in zip(turns, borders, [*borders[1:], None], strict=True)
        if speaker in turn.speakers and (end is None or end > start)
    ]
