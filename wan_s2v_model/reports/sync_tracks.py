"""Read a finished video for the sync report: when its pictures and samples play, how loud the sound is, how bright the picture.

The file is decoded twice, sound first, one frame at a time. What is kept of an hour is 6 MB.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from torch import Tensor

from ..media.video_reader import open_media

ENVELOPE_HZ = 200
GRID = 16  # cells of the picture per row and column
PIXELS_PER_CELL = 6  # after the picture was made smaller
THUMBNAIL_PX = 512  # longer side
FIRST_BINS = 60 * ENVELOPE_HZ
LONGEST_S = 24 * 3600

Source = Path | BytesIO


@dataclass
class StreamTiming:
    """When the frames of a stream play, in seconds of the file.

    Attributes:
        first_s, end_s: when the first frame begins and the last one ends; None where nothing was decoded.
        content_s: what the frames last by their number alone.
        least_step_s, greatest_step_s: between a frame's beginning and the next one's; None below two frames.
        greatest_jump_s: by how much a frame begins later (or earlier, negative) than the one before it ends.
    """

    first_s: float | None = None
    end_s: float | None = None
    num_frames: int = 0
    content_s: float = 0.0
    least_step_s: float | None = None
    greatest_step_s: float | None = None
    greatest_jump_s: float = 0.0
    _last_s: float = field(default=0.0, repr=False)

    @property
    def duration_s(self) -> float:
        return 0.0 if self.first_s is None or self.end_s is None else self.end_s - self.first_s

    @property
    def drift_s(self) -> float:
        """By how much the timestamps run ahead of the frames they belong to, over the whole file."""
        return self.duration_s - self.content_s

    def add(self, start_s: float, length_s: float) -> None:
        """Count a frame that begins at `start_s` and lasts `length_s` by its own rate."""
        if self.first_s is None or self.end_s is None:
            self.first_s = start_s
        else:
            step, jump = start_s - self._last_s, start_s - self.end_s
            self.least_step_s = step if self.least_step_s is None else min(self.least_step_s, step)
            self.greatest_step_s = step if self.greatest_step_s is None else max(self.greatest_step_s, step)
            self.greatest_jump_s = max(self.greatest_jump_s, jump, key=abs)
        self._last_s, self.end_s = start_s, start_s + length_s
        self.num_frames += 1
        self.content_s += length_s


@dataclass(frozen=True)
class Sound:
    """The sound of a file.

    Attributes:
        loudness: [T] root mean square in bins of 1 / ENVELOPE_HZ s, where the samples play, from `loudness_start_s` of the file on.
    """

    codec: str
    rate_hz: int
    channels: int
    time: StreamTiming
    loudness: np.ndarray
    loudness_start_s: float = 0.0


@dataclass(frozen=True)
class Picture:
    """The picture of a file, as its header has it."""

    codec: str
    width: int
    height: int
    fps: Fraction
    seconds: float | None  # None where the header does not say


def read_sound(source: Source, on_frame: Callable[[], None]) -> Sound | None:
    """Decode the sound of a file; None where it has none.

    Args:
        on_frame: called now and then; what it raises ends the reading.
    Raises:
        ValueError: if the file cannot be read, or its timestamps cannot be meant.
    """
    with _opened(source) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        rate, channels, codec = stream.codec_context.sample_rate, stream.codec_context.channels, stream.codec_context.name
        time, bins = StreamTiming(), _Bins()
        for frame in _decoded(container, stream):
            start = time.end_s or 0.0 if frame.pts is None else float(frame.pts * frame.time_base)
            time.add(start, frame.samples / frame.sample_rate)
            bins.add(start, frame.sample_rate, _power(frame))
            on_frame()
        return Sound(codec, rate, channels, time, bins.loudness(), bins.start_s or 0.0)


class PictureReader:
    """The pictures of a file, made small.

    Attributes:
        facts: of the header. time: of the pictures read so far. thumbnail: the first picture, [H, W, 3] uint8; None before it.

    Raises:
        ValueError: if the file cannot be read or has no picture.
    """

    def __init__(self, source: Source):
        self._source = source
        self.time = StreamTiming()
        self.thumbnail: Tensor | None = None
        with _opened(source) as container:
            if not container.streams.video:
                raise ValueError("The file has no picture. Choose a video, for example the path of Save Video (Wan S2V).")
            stream = container.streams.video[0]
            fps = stream.average_rate or stream.guessed_rate or Fraction(1)
            seconds = None if container.duration is None else container.duration / av.time_base
            self.facts = Picture(stream.codec_context.name, stream.codec_context.width, stream.codec_context.height, fps, seconds)

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the time at which each picture appears, in seconds, and its brightness [GRID * GRID] in 0..255."""
        reformatter, length_s = VideoReformatter(), float(1 / self.facts.fps)
        with _opened(self._source) as container:
            for frame in _decoded(container, container.streams.video[0]):
                start = self.time.end_s or 0.0 if frame.pts is None else float(frame.pts * frame.time_base)
                self.time.add(start, length_s)
                if self.thumbnail is None:
                    self.thumbnail = _thumbnail(frame)
                yield start, _cells(reformatter, frame)


class _Bins:
    """Mean power in bins of 1 / ENVELOPE_HZ s, from the first sample on."""

    def __init__(self) -> None:
        self._power, self._samples = np.zeros(FIRST_BINS), np.zeros(FIRST_BINS)
        self._used = 0
        self.start_s: float | None = None

    def add(self, start_s: float, rate_hz: int, power: np.ndarray) -> None:
        self.start_s = start_s if self.start_s is None else self.start_s
        if start_s - self.start_s > LONGEST_S:
            raise ValueError(f"The timestamps of the sound jump to {start_s:.0f} s. Save the video again.")
        bins = np.floor((start_s - self.start_s + (np.arange(len(power)) + 0.5) / rate_hz) * ENVELOPE_HZ).astype(np.int64)
        power, bins = power[bins >= 0], bins[bins >= 0]
        if not len(bins):
            return
        first, end = int(bins[0]), int(bins[-1]) + 1
        while end > len(self._power):
            self._power, self._samples = np.pad(self._power, (0, len(self._power))), np.pad(self._samples, (0, len(self._samples)))
        self._power[first:end] += np.bincount(bins - first, power)
        self._samples[first:end] += np.bincount(bins - first)
        self._used = max(self._used, end)

    def loudness(self) -> np.ndarray:
        return np.sqrt(self._power[: self._used] / np.maximum(self._samples[: self._used], 1))


def _opened(source: Source) -> InputContainer:
    if isinstance(source, BytesIO):
        source.seek(0)
    try:
        return open_media(source if isinstance(source, BytesIO) else str(source))
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"The video cannot be read: {error.strerror or error}. Choose a finished video file.") from error


def _decoded(container: InputContainer, stream: Any) -> Iterator[Any]:
    try:
        yield from container.decode(stream)
    except av.FFmpegError as error:
        raise ValueError(f"The video is damaged: {error.strerror or error}. Save it again.") from error


def _power(frame: av.AudioFrame) -> np.ndarray:
    """Square of the samples in -1..1, mean of the channels: [samples]."""
    samples: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    return np.nan_to_num(samples.astype(np.float32) ** 2).mean(axis=0)


def _cells(reformatter: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    side = GRID * PIXELS_PER_CELL
    small = reformatter.reformat(frame, width=side, height=side, format="gray", interpolation=Interpolation.AREA).to_ndarray()
    return small.reshape(GRID, PIXELS_PER_CELL, GRID, PIXELS_PER_CELL).mean(axis=(1, 3), dtype=np.float32).ravel()


def _thumbnail(frame: av.VideoFrame) -> Tensor:
    factor = min(1.0, THUMBNAIL_PX / max(frame.width, frame.height))
    width, height = max(1, round(frame.width * factor)), max(1, round(frame.height * factor))
    return torch.from_numpy(frame.to_ndarray(format="rgb24", width=width, height=height))
