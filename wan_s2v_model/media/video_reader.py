"""Pictures of a video file by the times at which it shows them, decoded as they are asked for: memory does not grow with the file."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from torch import Tensor

from ..untrusted import cut, open_plain
from .video_formats import LEVELS_TAG, ROUNDED_DOWN, open_container

logger = logging.getLogger("wan_s2v")

LEVELS = 255
# What swscale does without these is up to 1.5 levels too dark, and not the same in each colour.
ACCURATE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
SEEK_BACK_S = (0, 5, 20)  # tried one after the other; then the file is read from its start
SKIPPED_S = 10  # of pictures that nobody asks for: rather than decoding so many the reader jumps over them
LARGEST_SIDE = 16_384  # px, of a picture as it is displayed
ENCODER_DELAY_S = Fraction(60, 1000)  # of AAC, MP3 and Opus, at most
HDR = {16: "PQ", 18: "HLG"}  # transfer functions by their code in H.273
Timed = tuple[Fraction, av.VideoFrame]  # seconds in the file, and the picture that is shown from there


class VideoReader:
    """A video file, or a part of it, read forward; going back, and far ahead, opens it again. A context manager, which closes the file.

    Attributes:
        times: seconds at which each picture appears, from the first one on. Variable frame rates keep their times.
        late_s: seconds from the start of the part to the first picture.
        duration_s: from the first picture until the last one goes. fps: the average.
        rounded_down: the file was made of levels that were rounded down; in `read` half a level is added to them.
        hdr: how a video of high dynamic range is stored, which is read as if it were none; empty for others. file: the arguments.

    Args:
        source: path or bytes of the file. start_s, length_s: the part, from where the file starts; a length of 0 reaches to the end.
    Raises:
        ValueError: there is no picture in the file or in the part.
    """

    def __init__(self, source: str | BytesIO, start_s: float = 0.0, length_s: float = 0.0):
        self.file = source, start_s, length_s
        self._source = source
        self._part = start_s, start_s + length_s if length_s else math.inf
        self._container: InputContainer | None = None
        self._counted: list[Fraction] = []  # seconds of the pictures in files that number them as they are stored, not as they are shown
        self._frames: Iterator[Timed] = iter(())
        self._shown: Timed | None = None
        self._next: Timed | None = None
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None  # of the first picture, to which all are brought
        try:
            stream = self._open()
            self.fps = Fraction(stream.average_rate or stream.guessed_rate or 1)
            self._aspect = Fraction(stream.sample_aspect_ratio or 1)
            self.rounded_down = _is_rounded_down(stream.container.metadata)
            self.hdr = HDR.get(int(stream.codec_context.color_trc), "")
            seconds = self._scan(stream)
        except av.FFmpegError as error:
            raise ValueError(f"The video cannot be read: {cut(str(error))}. Check that it is complete and plays elsewhere.") from error
        finally:
            self.close()
        if not seconds:
            raise ValueError(
                "The video has no pictures in the part that was chosen. Check the file, and where its trimming begins and ends."
            )
        if note := hdr_note(self.hdr):
            logger.warning("%s", note)
        self._first = seconds[0]
        self.late_s = max(Fraction(0), seconds[0] - self._origin - Fraction(start_s))
        self.times = [second - seconds[0] for second in seconds]
        self.duration_s = max(self._following - self._first, self.times[-1] + 1 / self.fps)

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
        levels = self.read_levels(pictures).float()
        return levels.div_(LEVELS) if not self.rounded_down else levels.add_(0.5).div_(LEVELS).clamp_(max=1)

    def read_levels(self, pictures: Sequence[int]) -> Tensor:
        """As `read`, uint8, as they are in the file."""
        return torch.stack([torch.from_numpy(self._pixels(self._find(self._first + self.times[number]))) for number in pictures])

    def _find(self, second: Fraction) -> av.VideoFrame:
        """The picture that is on screen; the last one that could be decoded behind the end."""
        if self._shown is None or not 0 <= second - self._shown[0] <= SKIPPED_S:
            self._start(second if second - self._first > SKIPPED_S and not self._counted else None)
            if self._shown is None or self._shown[0] > second:
                self._start(None)
        while self._next is not None and self._next[0] <= second:
            self._shown, self._next = self._next, next(self._frames, None)
        if self._shown is None:
            raise ValueError("No picture of the video can be decoded. Check that the file plays elsewhere.")
        return self._shown[1]

    def _start(self, second: Fraction | None) -> None:
        """Open the file at its start, or not far before a second."""
        self.close()
        self._frames = self._decode(self._open(second))
        self._shown, self._next = next(self._frames, None), next(self._frames, None)

    def _open(self, second: Fraction | None = None) -> VideoStream:
        if isinstance(self._source, BytesIO):
            self._source.seek(0)
        self._container = container = open_media(self._source)
        if not container.streams.video:
            raise ValueError("The file has no picture, only sound. Choose a video.")
        stream = container.streams.video[0]
        require_decoder(stream)
        stream.thread_type = "AUTO"
        self._time_base = Fraction(stream.time_base or 1)
        self._origin = start_of(container)
        if second is not None or self._part[0]:
            self._seek(container, stream, self._origin + Fraction(self._part[0]) if second is None else second)
        return stream

    def _seek(self, container: InputContainer, stream: VideoStream, second: Fraction) -> None:
        """Go to where decoding can begin: a whole picture at or before a second, which files without an index do not find at once."""
        for back_s in SEEK_BACK_S:
            wanted = int((second - back_s) / self._time_base)
            container.seek(wanted, stream=stream)
            packet = next((packet for packet in container.demux(stream) if packet.size), None)
            container.seek(wanted, stream=stream)
            if packet is not None and packet.is_keyframe and (packet.pts is None or packet.pts * self._time_base <= second):
                return
        container.seek(0)

    def _scan(self, stream: VideoStream) -> list[Fraction]:
        """Seconds at which the pictures appear, rising; found without decoding them."""
        packets = [packet for packet in cast(InputContainer, stream.container).demux(stream) if packet.size and not packet.is_discard]
        times = [packet.pts for packet in packets]
        seconds = [number / self.fps if time is None else time * self._time_base for number, time in enumerate(times)]
        in_order = sorted(seconds)
        if None in times or (stream.codec_context.has_b_frames and seconds == in_order):
            self._counted = in_order
        inside = [second for second in in_order if self._is_inside(second)]
        behind = next((second for second in in_order if inside and second > inside[-1]), Fraction(0))
        self._following = min(behind, self._origin + Fraction(self._part[1])) if behind else behind  # there the last picture goes
        return inside

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
        second -= self._origin
        return round(float(second) - start_s, 6) >= 0 > round(float(second) - end_s, 6)

    def _pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """[H, W, 3] uint8 as it is displayed."""
        self._size = self._size or _square_pixels(frame.width, frame.height, self._aspect)
        picture = self._reformatter.reformat(frame, *self._size, "rgb24", interpolation=ACCURATE)
        return np.ascontiguousarray(np.rot90(picture.to_ndarray(), k=round(frame.rotation / 90) % 4))


def hdr_note(hdr: str) -> str | None:
    """What to say of a video that is stored so; None where there is nothing to say."""
    if not hdr:
        return None
    return f"the video is HDR ({hdr}), and its colours look pale: they are taken as they are stored. Convert it to SDR first"


def open_media(source: str | BytesIO) -> InputContainer:
    """Open a file of picture or sound that anybody can have made: no pipe, no playlist that leads to other files.

    Raises:
        ValueError: it is not there, or none that is read here. av.FFmpegError: it is damaged.
    """
    try:
        if isinstance(source, str):
            open_plain(Path(source), through_links=True).close()
    except OSError as error:
        raise ValueError(f"The video cannot be read: {error.strerror}. Check that it is complete and plays elsewhere.") from error
    try:
        return open_container(source)
    except av.error.ArgumentError as error:
        raise ValueError("The file is in a format that is not read here, such as a playlist. Convert it to MP4 or WAV.") from error


def require_decoder(stream: VideoStream) -> None:
    """Raise ValueError where this FFmpeg does not know the codec."""
    if cast(object, stream.codec_context) is None:
        raise ValueError("The pictures of the video cannot be decoded here: its codec is unknown. Convert it to MP4 (H.264).")


def start_of(container: InputContainer) -> Fraction:
    """The second in a file's own time at which it starts to play: not 0 in transport streams and recordings of a stream.

    It is that of the first picture where a sound begins just before it: what encoders put in front of a sound is not meant to be heard.
    """
    start_s = Fraction(max(0, container.start_time or 0), av.time_base)
    for stream in container.streams.video[:1]:
        picture_s = Fraction(stream.start_time or 0) * Fraction(stream.time_base or 1)
        if start_s < picture_s < start_s + ENCODER_DELAY_S:
            return picture_s
    return start_s


def _square_pixels(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height of a picture whose pixels are `aspect` times as wide as high; the side that is too short grows.

    Raises:
        ValueError: it would be larger than any picture that is played; a file can claim any shape of its pixels.
    """
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    if max(size) > LARGEST_SIDE:
        raise ValueError(f"The video would be shown with {size[0]} x {size[1]} pixels. Convert it to MP4 with square pixels.")
    return size


def _is_rounded_down(metadata: Mapping[str, str]) -> bool:
    return any(name.lower() == LEVELS_TAG and value == ROUNDED_DOWN for name, value in metadata.items())


def count_frames(path: Path) -> int:
    """Frames of a video file, without decoding them.

    Raises:
        OSError: it is not there, or damaged.
    """
    try:
        with open_media(str(path)) as source:
            return sum(packet.dts is not None for packet in source.demux(video=0))
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise OSError(f"{path.name} is damaged: {cut(str(error))}") from error
