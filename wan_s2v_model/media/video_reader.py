"""Pictures of a video file by the times at which it shows them, decoded as they are asked for: memory does not grow with the file."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from types import TracebackType
from typing import cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.stream import VideoStream
from torch import Tensor

Timed = tuple[Fraction, av.VideoFrame]  # seconds in the file, and the picture that is shown from there


class VideoReader:
    """A video file, or a part of it, read forward; going back opens it again. A context manager, which closes the file.

    Attributes:
        times: seconds at which each picture appears, from the first one on. Variable frame rates keep their times.
        duration_s: until the last picture goes. fps: the average.

    Args:
        source: path or bytes of the file. start_s, length_s: the part; a length of 0 reaches to the end.
    Raises:
        ValueError: there is no picture in the file or in the part.
    """

    def __init__(self, source: str | BytesIO, start_s: float = 0.0, length_s: float = 0.0):
        self._source = source
        self._part = start_s, start_s + length_s if length_s else math.inf
        self._container: InputContainer | None = None
        self._counted: list[Fraction] = []  # seconds of the pictures in files that number them as they are stored, not as they are shown
        self._frames: Iterator[Timed] = iter(())
        self._shown: Timed | None = None
        self._next: Timed | None = None
        try:
            stream = self._open()
            self.fps = Fraction(stream.average_rate or stream.guessed_rate or 1)
            seconds = self._scan(stream)
        except av.FFmpegError as error:
            raise ValueError(f"The video cannot be read: {error}. Check that the file is complete and plays elsewhere.") from error
        finally:
            self.close()
        if not seconds:
            raise ValueError(
                "The video has no pictures in the part that was chosen. Check the file, and where its trimming begins and ends."
            )
        self._first = seconds[0]
        self.times = [second - seconds[0] for second in seconds]
        self.duration_s = self.times[-1] + 1 / self.fps

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading opens it again."""
        self._frames, self._shown, self._next = iter(()), None, None
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self, pictures: Sequence[int]) -> Tensor:
        """Pictures by their numbers, best in rising order: [len(pictures), H, W, 3] in [0, 1]."""
        return torch.stack([torch.from_numpy(_pixels(self._find(self._first + self.times[number]))) for number in pictures]).float() / 255

    def _find(self, second: Fraction) -> av.VideoFrame:
        """The picture that is on screen; the last one that could be decoded behind the end."""
        if self._shown is None or second < self._shown[0]:
            self.close()
            self._frames = self._decode(self._open())
            self._shown, self._next = next(self._frames, None), next(self._frames, None)
        while self._next is not None and self._next[0] <= second:
            self._shown, self._next = self._next, next(self._frames, None)
        if self._shown is None:
            raise ValueError("No picture of the video can be decoded. Check that the file plays elsewhere.")
        return self._shown[1]

    def _open(self) -> VideoStream:
        if isinstance(self._source, BytesIO):
            self._source.seek(0)
        self._container = container = cast(InputContainer, av.open(self._source))
        if not container.streams.video:
            raise ValueError("The file has no picture, only sound. Choose a video.")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        self._time_base = Fraction(stream.time_base or 1)
        if self._part[0]:
            container.seek(int(self._part[0] / self._time_base), stream=stream)
        return stream

    def _scan(self, stream: VideoStream) -> list[Fraction]:
        """Seconds at which the pictures appear, rising; found without decoding them."""
        packets = [packet for packet in cast(InputContainer, stream.container).demux(stream) if packet.size and not packet.is_discard]
        times = [packet.pts for packet in packets]
        seconds = [number / self.fps if time is None else time * self._time_base for number, time in enumerate(times)]
        in_order = sorted(seconds)
        if None in times or (stream.codec_context.has_b_frames and seconds == in_order):
            self._counted = in_order
        return [second for second in in_order if self._is_inside(second)]

    def _decode(self, stream: VideoStream) -> Iterator[Timed]:
        counted = iter(self._counted)
        for packet in cast(InputContainer, stream.container).demux(stream):
            frames: Sequence[av.VideoFrame] = ()
            with suppress(av.error.InvalidDataError):  # a damaged picture: the one before stays on screen
                frames = packet.decode()
            for frame in frames:
                second = next(counted, self._counted[-1]) if self._counted else cast(int, frame.pts) * self._time_base
                if self._is_inside(second):
                    yield second, frame

    def _is_inside(self, second: Fraction) -> bool:
        start_s, end_s = self._part
        return round(float(second) - start_s, 6) >= 0 > round(float(second) - end_s, 6)


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    """[H, W, 3] uint8, turned as the file says."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90) % 4))
