"""Sounds that ComfyUI's Load Audio does not read, though FFmpeg does: 8-bit, joined, padded or slightly damaged files, tags in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import av
from av.audio.frame import AudioFrame

from .object_info import PromptError

try:
    from ...wan_s2v_model.media.video_formats import open_container
    from ...wan_s2v_model.untrusted import open_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.media.video_formats import open_container
    from wan_s2v_model.untrusted import open_plain

READ_FORMATS = ("s16", "s32", "flt", "dbl")  # of samples, interleaved or planar (p)
ID3_HEADER_BYTES = 10


@dataclass(frozen=True)
class Form:
    """How samples are stored."""

    samples: str
    layout: str
    rate_hz: int


def readable(sound: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """The sound itself where Load Audio reads it, else a FLAC of it in `folder`.

    Raises:
        PromptError: if there is no sound in it that FFmpeg reads.
    """
    _require_file(sound)
    reason = why_unreadable(sound)
    if not reason:
        return sound
    copy = folder / f"{sound.stem}.flac"
    convert(sound, copy)
    say(f"{sound.name}: {reason}, so a FLAC of it is uploaded")
    return copy


def seconds_of(sound: Path) -> float:
    """The length of a sound, as its file states it; where it does not, as it is decoded.

    Raises:
        PromptError: if there is no sound in it that FFmpeg reads.
    """
    with _opened(sound) as container:
        stream = container.streams.audio[0]
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None:
            return container.duration / av.time_base
        return sum(frame.samples / frame.sample_rate for frame in _decoded(container))


def why_unreadable(sound: Path) -> str:
    """What Load Audio stumbles over, "" for nothing."""
    first = None
    try:
        with open_container(str(sound)) as container:
            for frame in container.decode(audio=0):
                form = _form(frame)
                first = first or form
                if form.samples.removesuffix("p") not in READ_FORMATS:
                    return f"ComfyUI reads no samples of the type {form.samples}"
                if form != first:
                    return "its rate or channels change on the way"
    except (av.FFmpegError, IndexError):  # IndexError: no track of sound
        return "ComfyUI cannot decode a part of it"
    return "" if first else "ComfyUI cannot decode it"


def convert(sound: Path, flac: Path) -> None:
    """Write all that can be decoded, with the rate and the channels of its beginning."""
    with _opened(sound) as container, av.open(str(flac), "w", format="flac") as target:
        parts = _decoded(container)
        first = next(parts, None)
        if first is None:
            raise PromptError(f"{sound.name} holds no sound that FFmpeg can decode. See whether it plays elsewhere, or convert it to WAV.")
        form = _form(first)
        samples = "s16" if form.samples.removesuffix("p") in ("u8", "s16") else "s32"
        stream = target.add_stream("flac", rate=form.rate_hz, layout=form.layout)
        stream.codec_context.format = av.AudioFormat(samples)
        for frame in _in_one_form(chain([first], parts), Form(samples, form.layout, form.rate_hz)):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


@contextmanager
def _opened(sound: Path) -> Iterator[av.container.InputContainer]:
    """A file that FFmpeg recognises, if need be behind the ID3 tag in front of it."""
    _require_file(sound)
    problem: av.FFmpegError | None = None
    for place in (str(sound), f"subfile,,start,{_id3_bytes(sound)},end,0,,:{sound}"):
        try:
            container = open_container(place)
        except av.FFmpegError as error:
            problem = error
            continue
        with container:
            if not container.streams.audio:
                raise PromptError(f"{sound.name} has no sound.")
            yield container
            return
    reason = problem.strerror if problem else ""
    raise PromptError(f"{sound.name} is no sound that FFmpeg can read ({reason}). Convert it to WAV, or give another file.")


def _require_file(sound: Path) -> None:
    try:
        open_plain(sound, through_links=True).close()
    except OSError as error:
        raise PromptError(f"{sound.name} cannot be read: {error.strerror}. Give another file.") from error


def _id3_bytes(sound: Path) -> int:
    """The length of the tag at the beginning, 0 without one: 7 bits of it in each of four bytes."""
    with sound.open("rb") as stream:
        header = stream.read(ID3_HEADER_BYTES)
    if not header.startswith(b"ID3") or len(header) < ID3_HEADER_BYTES:
        return 0
    return ID3_HEADER_BYTES + sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))


def _decoded(container: av.container.InputContainer) -> Iterator[AudioFrame]:
    """The frames of the first track; what cannot be decoded is left out."""
    packets = container.demux(audio=0)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return  # nothing can be read from here on
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _in_one_form(frames: Iterable[AudioFrame], wanted: Form) -> Iterator[AudioFrame]:
    for _, part in groupby(frames, _form):
        resampler = av.AudioResampler(wanted.samples, wanted.layout, wanted.rate_hz)
        for frame in chain(part, [None]):  # None: what is left in the resampler
            for made in resampler.resample(frame):
                made.pts = None  # the encoder counts on by itself
                yield made


def _form(frame: AudioFrame) -> Form:
    return Form(frame.format.name, frame.layout.name, frame.sample_rate)
