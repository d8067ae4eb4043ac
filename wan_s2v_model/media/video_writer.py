"""Write frames and their sound to a video file, one frame at a time.

The sound is fed to the muxer frame by frame beside the pictures, so memory does not grow with the length of the video. Until the file is
complete it has the name `*.part.*`; a failed or cancelled video leaves nothing behind, and what a killed process leaves is known by its
lock, a file `*.part.*.lock` that nobody holds. The live format is the exception: fragments that play at any moment, under the file's own
name, kept whatever happens. Equal frames and sound give equal bytes on one machine, with h265 from 96x96 pixels on.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import pad

from ..files import discard, hold_unfinished, keep_unfinished, let_go, make_way, part_of, replace
from .sound_reader import SoundReader
from .video_formats import (
    AUDIO_ENCODERS,
    CONTAINERS,
    LEVELS_TAG,
    LIVE_ENCODER,
    LIVE_OPTIONS,
    RGB_FORMATS,
    ROUNDED_DOWN,
    VIDEO_ENCODERS,
    VideoFormat,
    _AudioEncoder,
)
from .video_reader import open_media
from .video_source import OtherTracks, VideoSource

RGB = 0  # the matrix of pictures that are stored as red, green and blue
LAYOUTS = {1: "mono", 2: "stereo"}  # by number of channels
COPIED_LEAD_IN = 2  # packets of sound, which overlap, that are encoded once more behind copied ones
MOST_UNTIMED_FRAMES = 2  # x265 leaves the decoding times of so few frames undefined; they are in order
FRAMES_AT_ONCE = 8  # that `write_video` writes between two looks at the cancel button
BT709 = 1  # its code in H.273, for primaries, transfer and matrix alike


class VideoWriterError(OSError):
    """The video file cannot be written; nothing of it is left on the disk, unless only its renaming failed."""


class VideoWriter:
    """Streams frames and sound into one file; both start at 0 and end together.

    Use it as a context manager: leaving it normally completes the file, leaving it with any exception removes it (a live one is kept).
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Fraction | int,
        video_format: VideoFormat,
        quality: int,
        audio: tuple[Tensor, int] | SoundReader | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: the finished file; an existing one is replaced when the new one is complete.
            width, height: of the frames. The picture in the file is one pixel larger where one is odd (its edge repeated).
            fps: constant frame rate.
            quality: constant rate factor, 0 (best, large) to 51; without effect where the codec is lossless. H.264 begins at 1, because
                few players know its lossless profile.
            audio: waveform [C, T] in -1..1 and its rate in Hz, or what is read piece by piece. C is 1 or 2. It is cut, or filled with
                silence, to the length of the frames.
            metadata: texts stored in the file, such as ComfyUI's "prompt" and "workflow".
        """
        self.path = Path(path)
        self._format = video_format
        self.part_path = self.path if video_format.is_live else part_of(self.path)
        self.num_frames = 0
        self._has_ended = False
        self._size = (height, width)
        self._fps = Fraction(fps)
        self._reformatter = VideoReformatter()
        self._container: OutputContainer | None = None
        self._lock: FileLock | None = None
        with self._guarded():
            if not self.path.parent.is_dir():
                raise FileNotFoundError(f"the folder {self.path.parent} does not exist")
            name, options = CONTAINERS[video_format.container]
            options = LIVE_OPTIONS if video_format.is_live else options
            self._lock = None if video_format.is_live else hold_unfinished(self.part_path)
            make_way(self.part_path)
            container = av.open(str(self.part_path), "w", format=name, container_options=options)
            self._container = container
            container.metadata.update(metadata or {})
            self._video = self._add_video(container, quality)
            self._sound = _Sound(container, AUDIO_ENCODERS[video_format.audio_codec], audio) if audio else None
            self._tracks: OtherTracks | None = None

    def copy_beside(self, tracks: OtherTracks) -> None:
        """Keep the tracks of another file; to be called before anything is written."""
        with self._guarded():
            tracks.add_to(self._opened())
            self._tracks = tracks

    def write(self, frames: Tensor) -> None:
        """Append frames and their share of the sound.

        Args:
            frames: [T, H, W, 3], uint8, or float in 0..1 (clamped, and rounded to the nearest of 256 levels).
        """
        with self._guarded():
            container = self._opened()
            container.start_encoding()
            if tuple(frames.shape[1:]) != (*self._size, 3):
                raise ValueError(f"frames must be [T, {self._size[0]}, {self._size[1]}, 3] in this video, got {list(frames.shape)}")
            for image in frames:
                container.mux(self._video.encode(self._to_video_frame(image)))
                self.num_frames += 1
                if self._sound:
                    self._sound.write_until(self.num_frames / self._fps)
                if self._tracks:
                    container.mux(list(self._tracks.until(self.num_frames / self._fps)))

    def copy(self, path: Path, num_frames: int) -> None:
        """Begin with the first frames of an earlier live file and their sound, which are not encoded again; `write` goes on behind them.

        Args:
            path: of a file of this format, size, frame rate and sound.
        Raises:
            ValueError: it holds fewer frames, or others. VideoWriterError: it is damaged.
        """
        with self._guarded(), open_media(str(path)) as source:
            self._opened().start_encoding()
            picture = source.streams.video[0]
            if (picture.width, picture.height) != (self._video.codec_context.width, self._video.codec_context.height):
                raise ValueError(f"{path.name} is {picture.width}x{picture.height}, not the size of this video")
            with_start_codes = BitStreamFilterContext("h264_mp4toannexb", picture, self._video)  # as the encoder gives them
            for packet in source.demux():
                if packet.dts is None:
                    continue
                if packet.stream.type == "video" and self.num_frames < num_frames:
                    self._mux_copied(with_start_codes.filter(packet), self._video)
                    self.num_frames += 1
                elif self._sound and packet.stream.type == "audio" and self._sound.takes(packet, num_frames / self._fps):
                    self._mux_copied([packet], self._sound.stream)
        if self.num_frames < num_frames:
            raise ValueError(f"{path.name} holds {self.num_frames} frames, not {num_frames}")

    def _mux_copied(self, packets: list[av.Packet], stream: VideoStream | AudioStream) -> None:
        for packet in packets:
            packet.stream = stream
            self._opened().mux(packet)

    def close(self) -> None:
        """Complete the file and give it its name. Further calls do nothing."""
        if self._container is None:
            return
        with self._guarded():
            if self.num_frames == 0:
                raise ValueError(f"no frames were written to {self.path}")
            container = self._container
            container.mux(self._last_packets())
            if self._sound:
                self._sound.finish()
            container.close()
            self._container = None
        self._name_file()

    def abort(self) -> None:
        """Remove the unfinished file, or end the live one where it is; does nothing after `close`."""
        container, self._container = self._container, None
        try:
            if container is not None:
                with contextlib.suppress(av.FFmpegError, OSError):
                    container.close()
        finally:
            if not (self._has_ended or self._format.is_live):
                discard(self.part_path)
            self._release()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _release(self) -> None:
        if self._lock is not None:
            let_go(self._lock)
            self._lock = None

    def _name_file(self) -> None:
        """Give the complete file its name; it is worth hours, so it stays where that fails."""
        self._has_ended = True
        try:
            if not self._format.is_live:
                replace(self.part_path, self.path)
        except OSError as error:
            keep_unfinished(self.part_path)
            raise VideoWriterError(
                f"the video is complete, but could not be named {self.path} ({error.strerror or error}). It is kept as {self.part_path}: "
                "close the program that uses one of the two files, and rename it."
            ) from error
        finally:
            self._release()

    def _opened(self) -> OutputContainer:
        if self._container is None:
            raise ValueError(f"the video {self.path} is closed")
        return self._container

    def _add_video(self, container: OutputContainer, quality: int) -> VideoStream:
        encoder = LIVE_ENCODER if self._format.is_live else VIDEO_ENCODERS[self._format.video_codec]
        height, width = self._size
        if min(height, width) < encoder.least_side - 1:  # an odd side grows by one
            least = encoder.least_side
            raise ValueError(f"{encoder.name} takes no pictures smaller than {least}x{least}, got {width}x{height}. Choose another format.")
        options = {"crf": str(max(quality, encoder.least_quality)), **encoder.options} if encoder.has_quality else encoder.options
        stream = cast(VideoStream, container.add_stream(encoder.name, rate=self._fps, options=options))
        codec = stream.codec_context
        codec.width = width + width % 2
        codec.height = height + height % 2
        codec.pix_fmt = self._format.pixel_format
        codec.time_base = 1 / self._fps
        if not self._format.is_live:
            codec.thread_type = "AUTO"  # PyAV would cut every picture into slices
        if encoder.tag:
            codec.codec_tag = encoder.tag
        codec.color_primaries = BT709
        codec.color_trc = BT709
        codec.colorspace = RGB if self._is_rgb else BT709
        codec.color_range = self._color_range
        return stream

    @property
    def _is_rgb(self) -> bool:
        return self._format.pixel_format in RGB_FORMATS

    @property
    def _color_range(self) -> ColorRange:
        return ColorRange.JPEG if self._is_rgb else ColorRange.MPEG

    def _last_packets(self) -> list[av.Packet]:
        packets = self._video.encode(None)
        if self._format.video_codec == "hevc" and self.num_frames <= MOST_UNTIMED_FRAMES:
            for packet in packets:
                packet.dts = packet.pts
        return packets

    def _to_video_frame(self, image: Tensor) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(_to_rgb(image), format="rgb24")
        if self._is_rgb:
            frame = self._reformatter.reformat(frame, format=self._format.pixel_format)
        else:
            frame = self._reformatter.reformat(
                frame,
                format=self._format.pixel_format,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=Interpolation.AREA,
            )
        frame.pts = self.num_frames
        frame.time_base = 1 / self._fps
        return frame

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Remove the unfinished file on any exception, an interrupt included."""
        try:
            yield
        except BaseException as error:
            self.abort()
            if isinstance(error, (av.FFmpegError, OSError)):
                raise VideoWriterError(f"cannot write {self.path}: {error.strerror or error}") from error
            raise


def write_video(
    path: Path,
    source: VideoSource,
    video_format: VideoFormat,
    quality: int,
    metadata: Mapping[str, str],
    check_cancelled: Callable[[], None] = lambda: None,
) -> None:
    """Write a whole video; `check_cancelled` is called between frames and may raise. For the other arguments see `VideoWriter`."""
    writer = VideoWriter(
        path,
        width=source.width,
        height=source.height,
        fps=source.fps,
        video_format=video_format,
        quality=quality,
        audio=source.sound,
        metadata={**metadata, LEVELS_TAG: ROUNDED_DOWN} if source.rounded_down else metadata,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(writer)
        if source.tracks_of is not None:
            writer.copy_beside(stack.enter_context(contextlib.closing(OtherTracks(source.tracks_of, video_format.container))))
        for frames in (few for batch in source.frames for few in batch.split(FRAMES_AT_ONCE)):
            check_cancelled()
            writer.write(frames)


class _Waveform:
    """A sound that is in memory, read as a SoundReader is."""

    def __init__(self, waveform: Tensor, sample_rate_hz: int) -> None:
        if waveform.ndim != 2 or waveform.shape[0] not in LAYOUTS:
            raise ValueError(f"audio must be a waveform [1 or 2 channels, samples], got {list(waveform.shape)}")
        self._waveform = waveform
        self.sample_rate_hz = sample_rate_hz
        self.num_channels = waveform.shape[0]

    def read(self, start: int, end: int) -> Tensor:
        samples = self._waveform[:, start:end].detach().cpu().float()
        return pad(samples, (0, end - start - samples.shape[1]))


class _Sound:
    """The sound of a video, encoded in step with its frames."""

    def __init__(self, container: OutputContainer, encoder: _AudioEncoder, source: tuple[Tensor, int] | SoundReader) -> None:
        sound = _Waveform(*source) if isinstance(source, tuple) else source
        self._container = container
        self._read = sound.read
        self._rate = sound.sample_rate_hz
        self._layout = LAYOUTS[sound.num_channels]
        self._position = 0
        self._copied_until = Fraction(-1)  # seconds
        encoded_rate = self._rate if self._rate in encoder.rates_hz else 48000
        self.stream = cast(AudioStream, container.add_stream(encoder.name, rate=encoded_rate))
        self.stream.codec_context.layout = self._layout
        self.stream.codec_context.format = encoder.sample_format
        if encoder.bit_rate is not None:
            self.stream.codec_context.bit_rate = encoder.bit_rate

    def write_until(self, time_s: Fraction) -> None:
        """Encode the samples up to a time, silence where the waveform has ended."""
        end = round(time_s * self._rate)
        samples = self._read(self._position, end).nan_to_num(0.0).clamp(-1, 1)
        frame = av.AudioFrame.from_ndarray(samples.contiguous().numpy(), format="fltp", layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts = self._position
        frame.time_base = Fraction(1, self._rate)
        self._mux(self.stream.encode(frame))
        self._position = end

    def finish(self) -> None:
        """Encode what the codec still holds."""
        self._mux(self.stream.encode(None))

    def takes(self, packet: av.Packet, time_s: Fraction) -> bool:
        """Whether a packet of another file ends well before a time, and so can be copied; encoding goes on behind the last that can."""
        end = ((packet.pts or 0) + (packet.duration or 0)) * packet.time_base
        lead_in = COPIED_LEAD_IN * self._packet_s
        if end > time_s - lead_in:  # the last packets of a file fade out
            return False
        self._copied_until, self._position = end, max(0, round((end - lead_in) * self._rate))
        return True

    def _mux(self, packets: list[av.Packet]) -> None:
        """Without those that only lead in to what follows the copied ones."""
        from_s = self._copied_until - self._packet_s / 2
        self._container.mux([packet for packet in packets if (packet.pts or 0) * packet.time_base > from_s])

    @property
    def _packet_s(self) -> Fraction:
        return Fraction(self.stream.codec_context.frame_size, self.stream.codec_context.sample_rate)


def _to_rgb(image: Tensor) -> np.ndarray:
    """Return [H, W, 3] uint8, the last row and column repeated where a size is odd."""
    image = image.detach().cpu()
    if image.dtype != torch.uint8:
        image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    height, width = image.shape[:2]
    return np.pad(image.numpy(), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
