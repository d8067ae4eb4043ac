"""The video files that can be written: containers, codecs and the options of their encoders; and how those that are read are opened."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import av
from av.container import InputContainer

RGB_FORMATS = ("bgr0",)
LEVELS_TAG, ROUNDED_DOWN = "wan_s2v_levels", "rounded down"  # a note in files of frames that are on average half a level too dark
REPRODUCIBLE = {"fflags": "+bitexact"}  # no random identifiers
CONTAINERS = {  # FFmpeg's name and options
    "mp4": ("mp4", {"movflags": "faststart+use_metadata_tags"}),
    "webm": ("webm", REPRODUCIBLE),
    "mkv": ("matroska", REPRODUCIBLE),
}
LIVE_OPTIONS = {"movflags": "delay_moov+empty_moov+default_base_moof", "frag_duration": "250000", "flush_packets": "1"}  # microseconds


@dataclass(frozen=True)
class VideoFormat:
    """What the file is made of; the names are those a reader of the file sees.

    Attributes:
        container: also the suffix of the file.
        is_live: written in fragments, fast and on one CPU thread.
    """

    container: str
    video_codec: str
    audio_codec: str
    pixel_format: str = "yuv420p"
    is_live: bool = False

    @property
    def plays_in_browsers(self) -> bool:
        """Whether every browser shows it."""
        return self.video_codec in ("h264", "vp9")


@dataclass(frozen=True)
class _VideoEncoder:
    name: str
    options: dict[str, str]
    has_quality: bool = True
    least_quality: int = 0
    least_side: int = 2  # pixels
    tag: str | None = None


@dataclass(frozen=True)
class _AudioEncoder:
    name: str
    sample_format: str
    rates_hz: tuple[int, ...]  # others are resampled to 48 kHz
    bit_rate: int | None


FORMATS: dict[str, VideoFormat] = {
    "mp4 (h264)": VideoFormat("mp4", "h264", "aac"),
    "webm (vp9)": VideoFormat("webm", "vp9", "opus"),
    "mp4 (h265)": VideoFormat("mp4", "hevc", "aac"),
    "mkv (ffv1, lossless)": VideoFormat("mkv", "ffv1", "flac", "bgr0"),
}
LIVE_FORMAT = VideoFormat("mp4", "h264", "aac", is_live=True)

# With AVX-512 x264 gives the same frames other bytes each time, in most sizes; independent of the CPU it does not, as fast and as small.
VIDEO_ENCODERS = {
    "h264": _VideoEncoder("libx264", {"preset": "fast", "x264-params": "cpu-independent=1"}, least_quality=1),
    "hevc": _VideoEncoder("libx265", {"preset": "fast", "x265-params": "log-level=error"}, tag="hvc1", least_side=16),
    "vp9": _VideoEncoder("libvpx-vp9", {"deadline": "good", "cpu-used": "4", "row-mt": "1", "tile-columns": "2"}),
    "ffv1": _VideoEncoder("ffv1", {"level": "3", "g": "1", "slicecrc": "1"}, has_quality=False, least_side=4),
}
LIVE_ENCODER = _VideoEncoder("libx264", {"preset": "veryfast", "tune": "zerolatency", "g": "80", "threads": "1"})

# AAC takes higher rates, which many players do not. It takes lower ones, too, but a reader that decodes its last packet whole would then
# get sound up to 128 ms longer than the picture.
AUDIO_ENCODERS = {
    "aac": _AudioEncoder("aac", "fltp", (48000, 44100, 32000), 192_000),
    "opus": _AudioEncoder("libopus", "flt", (48000,), 160_000),
    "flac": _AudioEncoder("flac", "s32", (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000), None),  # 24 bits of 32
}

# FFmpeg's names of the formats that are read: those that hold picture and sound themselves. Playlists (hls, concat, dash, image2) lead on.
READ_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,mxf,nut,rm,gif,apng,"
    "wav,w64,flac,mp3,aac,ogg,opus,aiff,caf,ac3,eac3,dts,amr,ape,tta,wv,voc,au,live_flv,dv,vc1,webp_pipe"
)


def open_container(source: str | BytesIO) -> InputContainer:
    """Open a file in one of the formats that are read. What it says of itself may be in any encoding.

    Raises: av.error.ArgumentError: it is in another format, such as a playlist. Other av.FFmpegError: it is damaged.
    """
    is_strict = int(av.__version__.partition(".")[0]) < 19  # later ones have no such choice, and need none
    lenient: dict[str, Any] = {"metadata_errors": "replace"} if is_strict else {}
    return cast(InputContainer, av.open(source, options={"format_whitelist": READ_FORMATS}, **lenient))
