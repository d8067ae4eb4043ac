"""Sound of a video file by the times at which it plays, decoded as it is asked for: memory does not grow with the file."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from fractions import Fraction
from io import BytesIO
from itertools import chain
from typing import cast

import av
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from torch import Tensor

from ..untrusted import cut
from .video_reader import open_media, start_of

logger = logging.getLogger("wan_s2v")

SETTLING_S = 1  # decoded before the part begins, as the first packet behind a jump is not whole
UNEVEN_S = 0.05  # that times of packets may be off, as containers round them; more is a gap, or one piece over another
Piece = tuple[int, np.ndarray]  # the number of its first sample, and samples [C, n]


class SoundReader:
    """The first sound of a file that can be decoded, or a part of it, as mono or stereo at its own rate; read forward.

    Attributes:
        sample_rate_hz, num_channels: of what `read` gives. FFmpeg mixes more than two channels down to stereo.
        gain: by which the samples are multiplied.

    Args:
        source, start_s, length_s: as of `VideoReader`, so that both tell the same time.
    Raises:
        ValueError: there is no sound in the file; `open_sound` gives None instead.
    """

    def __init__(self, source: str | BytesIO, start_s: float = 0.0, length_s: float = 0.0):
        # Pictures are read from the same bytes at the same time, at another place.
        self._container = open_media(BytesIO(source.getvalue()) if isinstance(source, BytesIO) else source)
        stream = next((stream for stream in self._container.streams.audio if cast(object, stream.codec_context) is not None), None)
        self._origin = start_of(self._container) + Fraction(start_s)
        frames = iter(()) if stream is None else self._decode(stream, start_s)
        first = next(frames, None)
        if first is None:
            self.close()
            raise ValueError("The file has no sound that can be decoded.")
        self.sample_rate_hz = first.sample_rate
        self.num_channels = min(2, first.layout.nb_channels)
        self.is_mixed_down = first.layout.nb_channels > self.num_channels
        self.gain = 1.0
        self._end = round(length_s * self.sample_rate_hz) if length_s else None
        self._pieces = self._place(chain((first,), frames))
        self._piece = next(self._pieces, None)

    def close(self) -> None:
        self._container.close()

    def read(self, start: int, end: int) -> Tensor:
        """Samples [C, end - start], silence where there are none; call it with rising numbers only."""
        samples = np.zeros((self.num_channels, end - start), np.float32)
        if self._end is not None:
            end = min(end, self._end)
        while self._piece is not None and self._piece[0] < end:
            first, own = self._piece
            last = first + own.shape[1]
            begin = max(first, start)
            if begin < min(last, end):
                samples[:, begin - start : min(last, end) - start] = own[:, begin - first : min(last, end) - first]
            if last > end:
                break
            self._piece = next(self._pieces, None)
        return torch.from_numpy(samples).mul_(self.gain)

    def peak(self) -> float:
        """The largest sample from here to the end, which is then read."""
        last = math.inf if self._end is None else self._end
        pieces = chain(() if self._piece is None else (self._piece,), self._pieces)
        return max((float(np.abs(own).max(initial=0)) for first, own in pieces if first < last), default=0.0)

    def _decode(self, stream: AudioStream, start_s: float) -> Iterator[av.AudioFrame]:
        if start_s:
            self._container.seek(int((self._origin - SETTLING_S) * av.time_base))
        for packet in self._container.demux(stream):
            frames: Sequence[av.AudioFrame] = ()
            with suppress(av.error.InvalidDataError):  # damaged: silence in its place
                frames = packet.decode()
            yield from frames

    def _place(self, frames: Iterator[av.AudioFrame]) -> Iterator[Piece]:
        """Pieces one behind the other, but where the times say clearly that there is a gap or a piece twice."""
        expected: int | None = None
        for frame in self._alike(frames):
            own = frame.to_ndarray()
            number = expected
            if frame.pts is not None and frame.time_base is not None:
                stamp = round((frame.pts * frame.time_base - self._origin) * self.sample_rate_hz)
                if expected is None or abs(stamp - expected) > UNEVEN_S * self.sample_rate_hz:
                    number = stamp
            number = number or 0
            expected = number + own.shape[1]
            yield number, own

    def _alike(self, frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
        """Frames in one format, also where the file changes it on the way."""
        resampler, kind = None, None
        for frame in frames:
            if resampler is None or kind != (frame.format.name, frame.layout.name, frame.sample_rate):
                yield from resampler.resample(None) if resampler is not None else ()
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                resampler = AudioResampler("fltp", "mono" if self.num_channels == 1 else "stereo", self.sample_rate_hz)
            yield from resampler.resample(frame)
        yield from resampler.resample(None) if resampler is not None else ()


def open_sound(source: str | BytesIO, start_s: float = 0.0, length_s: float = 0.0) -> SoundReader | None:
    """A SoundReader; None where the file has no sound. One of surround is as a whole quieter where its mix would clip."""
    try:
        reader = SoundReader(source, start_s, length_s)
        if reader.is_mixed_down:
            with closing(SoundReader(source, start_s, length_s)) as whole:
                reader.gain = 1 / max(1.0, whole.peak())
        return reader
    except (ValueError, av.FFmpegError) as error:
        logger.warning("the video is written without sound: %s", cut(str(error), 200))
        return None
