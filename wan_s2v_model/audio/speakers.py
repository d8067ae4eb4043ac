"""Several speakers of one video: what each of them is heard to say, frame by frame, and what the video plays."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import VIDEO_FPS
from ..media.audio_input import Sound
from ..media.sound import resample
from ..untrusted import shown
from .features import EncodedAudio, SilenceFeatures, gather_frames
from .preparation import length_at_16khz
from .turns import Turn, spans_of

logger = logging.getLogger("wan_s2v")

NOBODY = ("silence", "nearest", "everybody", "everybody added")
FADE_S = 0.01  # of a sound at the borders of a turn
LONGEST_PAUSE_S = 600  # in which nobody has a sound: what is played would be hours of zeros in memory


class Box(NamedTuple):
    """A part of a picture: left, top, width and height, each in pixels or as a share of the picture's side."""

    sides: tuple[float, float, float, float]
    is_share: tuple[bool, bool, bool, bool]

    @property
    def is_everywhere(self) -> bool:
        return self.sides == (0, 0, 1, 1) and self.is_share[2:] == (True, True)

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in a picture of this size, not beyond its edges."""
        wholes = (width, height, width, height)
        left, top, across, down = (side * whole if is_share else side for side, is_share, whole in zip(*self, wholes, strict=True))
        edges = zip((left, top, left + across, top + down), wholes, strict=True)
        left, top, right, bottom = (min(max(round(edge), 0), whole) for edge, whole in edges)
        return left, top, right, bottom


EVERYWHERE = Box((0.0, 0.0, 1.0, 1.0), (True, True, True, True))


@dataclass(frozen=True)
class Speaker:
    """One of those in the picture.

    Attributes:
        number: from 1, as on the node. region: where in the picture, as a mask [T, H, W] in 0..1, one or many of them, or a box.
        sound: None for one who only listens. start: frame of the video at which the sound begins. gain_db: of the sound that is played.
    """

    number: int
    region: Tensor | Box
    sound: EncodedAudio | None = None
    start: int = 0
    gain_db: float = 0.0

    @property
    def is_unchanged(self) -> bool:
        """Whether all of the picture hears the sound as it is."""
        region = self.region
        is_everywhere = region.is_everywhere if isinstance(region, Box) else bool((region == 1).all())
        return is_everywhere and self.sound is not None and not self.start and not self.gain_db


class Track(NamedTuple):
    """What is played of a speaker, silent outside of its turns: waveform [C, T], and the second at which it begins."""

    sound: Sound
    start_s: float


@dataclass(frozen=True)
class Speakers:
    """All who are in the picture.

    Attributes:
        silence: [layers, channels], heard by those who do not speak. turns: empty where all may speak all the time.
        nobody: what tokens outside of all regions hear, one of NOBODY. feather_px: how wide the edges of the regions are in the video.
        mask_fps: of regions that move.
    """

    speakers: tuple[Speaker, ...]
    silence: Tensor
    turns: tuple[Turn, ...] = ()
    nobody: str = NOBODY[0]
    feather_px: int = 0
    mask_fps: float = VIDEO_FPS

    @property
    def fps(self) -> int:
        """Frame rate of the video that the sounds are for."""
        return next((speaker.sound.fps for speaker in self.speakers if speaker.sound is not None), VIDEO_FPS)

    def heard(self, frames: Sequence[int | None]) -> Tensor:
        """What the speakers, and behind them silence, sound like in these frames of the video: [1, speakers + 1, layers, channels, frames].

        Args:
            frames: None is silence.
        """
        silent = self.silence[None, ..., None].expand(1, -1, -1, len(frames))
        return torch.stack([*(self._heard(speaker, frames) for speaker in self.speakers), silent], dim=1)

    def _heard(self, speaker: Speaker, frames: Sequence[int | None]) -> Tensor:
        if speaker.sound is None:
            return self.silence[None, ..., None].expand(1, -1, -1, len(frames))
        spans = spans_of(self.turns, speaker.number, self.fps)
        own = [frame - speaker.start if frame is not None and frame >= speaker.start and _is_in(frame, spans) else None for frame in frames]
        pauses = speaker.sound.silence.pauses if speaker.sound.silence else frozenset()
        return gather_frames(speaker.sound.features, own, SilenceFeatures(self.silence, pauses))

    def tracks(self) -> dict[int, Track]:
        """What is played of each who speaks, by number."""
        return {
            speaker.number: self._track(speaker, speaker.sound, [speaker.number]) for speaker in self.speakers if speaker.sound is not None
        }

    def played(self) -> list[Track]:
        """What is played of all; one recording that several share is there once, in the turns of all of them."""
        sharing: dict[tuple[int, int, float], list[Speaker]] = {}
        for speaker in self.speakers:
            sharing.setdefault((id(speaker.sound), speaker.start, speaker.gain_db), []).append(speaker)
        groups = [(group[0], group[0].sound, [speaker.number for speaker in group]) for group in sharing.values()]
        return [self._track(speaker, sound, numbers) for speaker, sound, numbers in groups if sound is not None]

    def _track(self, speaker: Speaker, sound: EncodedAudio, numbers: Sequence[int]) -> Track:
        """The sound of a speaker, open in the turns of these."""
        waveform, rate_hz, start_s = sound.waveform, sound.sample_rate_hz, speaker.start / self.fps
        if self.turns:
            frames = sorted({span for number in numbers for span in spans_of(self.turns, number, self.fps)}, key=lambda span: span[0])
            edges = [(start / self.fps - start_s, None if end is None else end / self.fps - start_s) for start, end in _joined(frames)]
            waveform = waveform * _open_between(edges, waveform.shape[1], rate_hz)
        return Track(Sound(waveform * 10 ** (speaker.gain_db / 20), rate_hz), start_s)


@dataclass(frozen=True)
class JoinedAudio(EncodedAudio):
    """The sounds of several speakers; `features` are those of the first one, for their size."""

    speakers: Speakers | None = None


def join(speakers: Speakers, played: Sound | None = None) -> JoinedAudio:
    """The sounds of all speakers as one.

    Args:
        played: what the video plays, and how long it is; None plays them all together, up to the end of the last one.
    Raises:
        ValueError: nobody has a sound, a turn is of somebody without one, or they do not fit together.
    """
    sounds = {speaker.number: speaker.sound for speaker in speakers.speakers if speaker.sound is not None}
    if not sounds:
        raise ValueError("Nobody has a sound. Connect the encoded_audio of Encode Audio (Wan S2V) to at least one speaker.")
    if strangers := sorted(frozenset().union(*(turn.speakers for turn in speakers.turns)) - sounds.keys()):
        raise ValueError(f"The turns name speaker {strangers[0]}, who has no sound. Speakers with a sound: {', '.join(map(str, sounds))}.")
    sizes = {number: tuple(sound.features.shape[:2]) for number, sound in sounds.items()} | {0: tuple(speakers.silence.shape)}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"The sounds come from audio encoders of different sizes: {', '.join(str(list(size)) for size in sizes.values())} layers and "
            "channels. Use one Load Wan S2V Audio Encoder for all."
        )
    if len(rates := sorted({sound.fps for sound in sounds.values()})) > 1:
        raise ValueError(f"The sounds are for videos of {rates[0]} and {rates[1]} frames per second. Set frame_rate alike in Encode Audio.")
    if played is None:
        _require_no_long_pause(speakers)
    sound = played or mixed(speakers.played())
    first = next(iter(sounds.values()))
    num_samples = length_at_16khz(sound.waveform.shape[1], sound.sample_rate_hz)
    return JoinedAudio(first.features, *sound, num_samples, fps=speakers.fps, speakers=speakers)


def mixed(tracks: Sequence[Track]) -> Sound:
    """All tracks together, at the highest of their rates, stereo where one of them is; as a whole quieter where they would clip."""
    rate_hz = max(track.sound.sample_rate_hz for track in tracks)
    channels = max(track.sound.waveform.shape[0] for track in tracks)
    placed = []
    for (waveform, own_hz), start_s in tracks:
        waveform = waveform if own_hz == rate_hz else resample(waveform, own_hz, rate_hz)
        start = round(start_s * rate_hz)
        placed.append((waveform, start, start + waveform.shape[1]))
    total = torch.zeros(channels, max(end for _, _, end in placed))
    for waveform, start, end in placed:
        total[:, start:end] += waveform
    peak = float(total.abs().max())
    if peak > 1:
        logger.info("the speakers together reach %.2f times full scale: all become quieter by that", peak)
    return Sound(total / max(1.0, peak), rate_hz)


def _require_no_long_pause(speakers: Speakers) -> None:
    """Raise ValueError where a sound begins so late that nothing but silence would be played for long."""
    heard_until_s = 0.0
    for speaker in sorted(speakers.speakers, key=lambda speaker: speaker.start):
        if speaker.sound is None:
            continue
        start_s = speaker.start / speakers.fps
        if start_s > heard_until_s + LONGEST_PAUSE_S:
            raise ValueError(
                f"Speaker {speaker.number} begins at {start_s:g} s, and nobody has a sound for the {start_s - heard_until_s:.0f} s before "
                f"it; such a pause lasts {LONGEST_PAUSE_S} s at most. Lower start_{speaker.number}, or connect played_audio."
            )
        heard_until_s = max(heard_until_s, start_s + speaker.sound.waveform.shape[1] / speaker.sound.sample_rate_hz)


def place_of(number: int, mask: Tensor | None, box: str | None) -> Tensor | Box | None:
    """Where a speaker is: a mask [T, H, W] or a box in words, or None for neither.

    Raises:
        ValueError: there are both, or the box cannot be read.
    """
    if not box or not box.strip():
        return mask
    if mask is not None:
        raise ValueError(f"Speaker {number} has both a mask and a box. Disconnect mask_{number}, or empty box_{number}.")
    try:
        return parse_box(box)
    except ValueError as error:
        raise ValueError(f"box_{number}: {error}") from error


def sound_of(number: int, sound: EncodedAudio | None) -> EncodedAudio | None:
    """The sound of a speaker; ValueError for one that has been joined already."""
    if isinstance(sound, JoinedAudio):
        raise ValueError(f"encoded_audio_{number} comes from Speakers already. Connect that of Encode Audio (Wan S2V).")
    return sound


def require_places(speakers: Sequence[Speaker]) -> None:
    """Raise ValueError for a sound without a place beside others; say in the log who only listens."""
    for speaker in speakers:
        number = speaker.number
        if speaker.region is EVERYWHERE and len(speakers) > 1:
            raise ValueError(f"Speaker {number} has a sound, but no place in the picture. Connect mask_{number}, or fill in box_{number}.")
        if speaker.sound is None:
            logger.info("speaker %d has a place in the picture and no sound: it listens in silence", number)


def parse_box(text: str) -> Box:
    """Read `left top width height` in pixels, or in percent of the picture's side: `50% 0 50% 100%`.

    Raises:
        ValueError: with what is wrong.
    """
    parts = text.replace(",", " ").split()
    try:
        numbers = tuple(float(part.removesuffix("%")) / (100 if part.endswith("%") else 1) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != 4 or not all(0 <= number < float("inf") for number in numbers) or min(numbers[2:]) == 0:
        raise ValueError(
            f"A box is left, top, width and height in pixels of the picture or in percent, as 50% 0 50% 100%; got {shown(text)}."
        )
    left, top, width, height = numbers
    is_share = tuple(part.endswith("%") for part in parts)
    return Box((left, top, width, height), (is_share[0], is_share[1], is_share[2], is_share[3]))


def _is_in(frame: int, spans: Sequence[tuple[int, int | None]]) -> bool:
    return any(start <= frame and (end is None or frame < end) for start, end in spans)


def _joined(spans: Sequence[tuple[int, int | None]]) -> list[tuple[int, int | None]]:
    """Spans in order of their starts, those that touch made one."""
    joined: list[tuple[int, int | None]] = []
    for start, end in spans:
        first, last = joined[-1] if joined else (0, -1)
        if last is None or start <= last:
            joined[-1] = first, None if last is None or end is None else max(last, end)
        else:
            joined.append((start, end))
    return joined


def _open_between(edges: Sequence[tuple[float, float | None]], num_samples: int, rate_hz: int) -> Tensor:
    """[T], 1 between these seconds and 0 elsewhere, with short fades inside."""
    gate, fade = torch.zeros(num_samples), max(1, round(FADE_S * rate_hz))
    for first, last in _samples(edges, num_samples, rate_hz):
        ramp = torch.ones(last - first)
        length = min(fade, len(ramp))
        if first > 0:
            ramp[:length] = torch.linspace(0, 1, length)
        if last < num_samples:
            ramp[-length:] = torch.minimum(ramp[-length:], torch.linspace(1, 0, length))
        gate[first:last] = ramp
    return gate


def _samples(edges: Sequence[tuple[float, float | None]], num_samples: int, rate_hz: int) -> Iterator[tuple[int, int]]:
    for start_s, end_s in edges:
        first = min(max(0, round(start_s * rate_hz)), num_samples)
        last = num_samples if end_s is None else min(max(0, round(end_s * rate_hz)), num_samples)
        if last > first:
            yield first, last
