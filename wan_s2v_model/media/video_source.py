"""What a video file is made of: IMAGE and AUDIO of other nodes, or another video file, read by time."""

import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from typing import Any, NamedTuple, cast

import av
import torch
from av.container import OutputContainer
from av.stream import Stream
from torch import Tensor

from .audio_input import Sound, read_audio
from .frame_rate import exact_rate, rate_by_sound
from .pictures import read_pictures
from .sound import fold_down
from .sound_reader import SoundReader, open_sound
from .video_reader import VideoReader, open_media, start_of

logger = logging.getLogger("wan_s2v")

MOST_APART_S = 0.125  # that picture and sound may be at their end: two frames of the model
AT_ONCE = 8  # pictures of a file that are in memory
MOST_FPS = 240
MOST_FRAMES = 20_000_000  # of a file: a day at MOST_FPS frames per second
SHORT_STEPS = 10  # one of so many steps between pictures may be shorter than a frame of the rate that is chosen for an uneven file
WHOLE_RATE = 0.02  # share by which that rate may depart from a whole number


COPIED = {  # codecs of tracks that are copied, by container; all sounds where there is None
    "mp4": ({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac"}, {"mov_text"}),
    "webm": ({"opus", "vorbis"}, {"webvtt"}),
    "mkv": (None, {"subrip", "ass", "ssa", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle"}),
}
FilePart = tuple[str | BytesIO, float, float]  # file, start and length in seconds, as of VideoReader


class VideoSource(NamedTuple):
    """Frames and sound of a video that is to be written.

    Attributes:
        frames: batches of [T, H, W, 3], uint8 or float in [0, 1].
        sound: [C, T] with C of 1 or 2, and its rate in Hz; or a reader, which is read beside the frames.
        rounded_down: the frames are levels that were rounded down, which is noted in the file.
        num_frames: where it is known before they are read.
        tracks_of: a file whose other tracks are kept: subtitles, and all sounds but the first.
    """

    width: int
    height: int
    fps: Fraction
    frames: Iterator[Tensor]
    sound: tuple[Tensor, int] | SoundReader | None
    rounded_down: bool = False
    num_frames: int | None = None
    tracks_of: FilePart | None = None


class OtherTracks:
    """The subtitles of a file, or of a part of it, and its sounds but the first, copied as they are stored. Close it in the end.

    Args:
        container: suffix of the file that they are copied to; what does not fit into it is left out, and the log says so.
    """

    def __init__(self, file: FilePart, container: str) -> None:
        source, start_s, length_s = file
        self._file = open_media(BytesIO(source.getvalue()) if isinstance(source, BytesIO) else source)
        self._origin = start_of(self._file) + Fraction(start_s)
        self._end = Fraction(length_s) if length_s else None
        self._streams = [stream for stream in self._candidates() if _fits(stream, container)]
        self._copies: dict[int, Stream] = {}
        self._packets = iter(self._file.demux(self._streams)) if self._streams else iter(())
        self._next = next(self._packets, None)

    def _candidates(self) -> list[Stream]:
        return [*self._file.streams.audio[1:], *self._file.streams.subtitles]

    def add_to(self, target: OutputContainer) -> None:
        """Give a file that is begun these tracks."""
        for stream in self._streams:
            copy = self._copies[stream.index] = target.add_stream_from_template(cast(Any, stream))
            copy.metadata.update(stream.metadata)

    def until(self, time_s: Fraction) -> Iterator[av.Packet]:
        """What begins before a time; call it with rising times only."""
        while self._next is not None:
            packet, second = self._next, self._second(self._next)
            if second is not None and second >= time_s:
                return
            self._next = next(self._packets, None)
            if second is not None and second >= 0 and (self._end is None or second < self._end):
                yield self._moved(packet)

    def close(self) -> None:
        self._file.close()

    def _second(self, packet: av.Packet) -> Fraction | None:
        """None for the empty packet at the end of a stream."""
        return None if packet.pts is None or packet.size == 0 else packet.pts * cast(Fraction, packet.time_base) - self._origin

    def _moved(self, packet: av.Packet) -> av.Packet:
        shift = round(self._origin / cast(Fraction, packet.time_base))
        packet.pts = cast(int, packet.pts) - shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        packet.stream = self._copies[packet.stream.index]
        return packet


def _fits(stream: Stream, container: str) -> bool:
    sounds, subtitles = COPIED[container]
    codec = stream.codec_context.name if cast(object, stream.codec_context) is not None else "unknown"
    allowed = sounds if stream.type == "audio" else subtitles
    if codec != "unknown" and (allowed is None or codec in allowed):
        return True
    logger.warning("track %d of the source (%s, %s) is left out: it cannot be copied to .%s", stream.index, stream.type, codec, container)
    return False


def source_of_images(images: Any, audio: Any, fps: float | Fraction) -> VideoSource:
    """IMAGE and AUDIO as a source; no AUDIO is a video without sound.

    Raises:
        ValueError: there is no colour picture, no such sound, or NaN or infinite values are in pictures or sound.
    """
    pixels = read_pictures("images", images)
    height, width = pixels.shape[1:3]
    sound = None if audio is None else _checked(read_audio("audio", audio))
    return VideoSource(width, height, exact_rate(fps), iter([pixels]), sound, num_frames=len(pixels))


def sync_problem(source: VideoSource) -> str | None:
    """What to say where picture and sound do not last equally long; None where they do, or where it is not known before they are read."""
    if source.num_frames is None or not isinstance(source.sound, tuple):
        return None
    waveform, rate_hz = source.sound
    picture_s, sound_s = float(source.num_frames / source.fps), waveform.shape[1] / rate_hz
    if abs(picture_s - sound_s) <= MOST_APART_S:
        return None
    fitting = rate_by_sound(source.num_frames, sound_s)
    return (
        f"not in sync: {source.num_frames} frames at {float(source.fps):g} fps last {picture_s:.2f} s, and the sound {sound_s:.2f} s. "
        f"At {fitting:g} fps both would last equally long. Is a node that interpolates, or Change Frame Rate, bypassed?"
    )


def _checked(sound: Sound) -> tuple[Tensor, int] | None:
    if sound.waveform.numel() == 0:
        logger.warning("audio is empty: the video has no sound")
        return None
    if not torch.isfinite(sound.waveform).all():
        raise ValueError("The audio contains NaN or infinite samples. Check the node that made it.")
    return fold_down(sound.waveform), sound.sample_rate_hz


@contextmanager
def source_of_file(source: str | BytesIO, start_s: float = 0.0, length_s: float = 0.0) -> Iterator[VideoSource]:
    """A video file, or a part of it, at a constant rate: each frame is the picture on screen in its middle, each sample plays at its time.

    A few pictures and a second of sound are in memory. Before a late picture its first one is shown, before a late sound there is silence.

    Args:
        source, start_s, length_s: as of `VideoReader`.
    Raises:
        ValueError: the file cannot be read or has no pictures.
    """
    with VideoReader(source, start_s, length_s) as reader:
        fps = constant_rate(reader.times, reader.fps)
        height, width = reader.read_levels([0]).shape[1:3]
        numbers = frame_pictures(reader.times, reader.late_s, reader.duration_s, fps)
        frames = (reader.read_levels(numbers[start : start + AT_ONCE]) for start in range(0, len(numbers), AT_ONCE))
        sound = open_sound(source, start_s, length_s)
        try:
            yield VideoSource(width, height, fps, frames, sound, reader.rounded_down)
        finally:
            if sound is not None:
                sound.close()


def constant_rate(times: Sequence[Fraction], fps: Fraction) -> Fraction:
    """The rate at which a file is written again: its own, or where its steps are uneven one that keeps nearly all of its pictures.

    Args:
        times: seconds at which each picture appears, the first at 0. fps: what the file says.
    """
    if len(times) < 2:
        return min(exact_rate(fps), Fraction(MOST_FPS))
    for rate in (exact_rate(fps), exact_rate((len(times) - 1) / times[-1])):
        if rate <= MOST_FPS and all(abs(time - number / rate) * 2 * rate < 1 for number, time in enumerate(times)):
            return rate
    steps = sorted(after - before for before, after in pairwise(times) if after > before)
    fastest = 1 / steps[len(steps) // SHORT_STEPS]
    whole = Fraction(round(fastest))
    rate = min(Fraction(MOST_FPS), max(Fraction(1), whole if abs(whole - fastest) < WHOLE_RATE * fastest else exact_rate(fastest)))
    logger.info("the pictures of the video come unevenly; they are written by their times at %g fps", float(rate))
    return rate


def frame_pictures(times: Sequence[Fraction], late_s: Fraction, duration_s: Fraction, fps: Fraction) -> list[int]:
    """Numbers of the pictures that are on screen in the middle of each frame, at least one.

    Args:
        times, late_s, duration_s: as of `VideoReader`.
    Raises:
        ValueError: the file claims to last for weeks.
    """
    count = max(1, round((late_s + duration_s) * fps))
    if count > MOST_FRAMES:
        raise ValueError(f"The video would have {count:,} frames; at most {MOST_FRAMES:,} are read. Trim it, or convert it to MP4.")
    middles = (Fraction(2 * frame + 1, 2) / fps - late_s for frame in range(count))
    return [max(0, bisect_right(times, middle) - 1) for middle in middles]
