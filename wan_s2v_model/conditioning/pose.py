"""Which picture of a pose video belongs to which slot of a clip, and the latents that the model is given for it."""

import logging
import mmap
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from ..media.frame_rate import exact_rate
from ..origin import digest, made_of, origin_of
from .clip import ALL_STEPS
from .picture import fit_frames
from .timeline import Timeline

logger = logging.getLogger("wan_s2v")

POSE_ENDS = ("hold", "loop", "release")
AT_ONCE = 8  # pictures that are fitted together


class PoseVideo(Protocol):
    """Pictures with the seconds at which they appear, the first at 0; a VideoReader is one."""

    @property
    def times(self) -> Sequence[Fraction]: ...

    @property
    def duration_s(self) -> Fraction: ...

    @property
    def fps(self) -> Fraction: ...

    def read(self, pictures: Sequence[int]) -> Tensor:
        """[len(pictures), H, W, 3] in [0, 1]."""


class PoseImages:
    """A pose video whose frames [T, H, W, 3] are in memory."""

    def __init__(self, images: Tensor, fps: float | Fraction):
        self.fps = exact_rate(fps)
        self.times = [number / self.fps for number in range(len(images))]
        self.duration_s = len(images) / self.fps
        self._images = images

    def read(self, pictures: Sequence[int]) -> Tensor:
        return self._images[list(pictures)]


class _NotedPose:
    """A pose video that notes which pictures were read."""

    def __init__(self, video: PoseVideo) -> None:
        self.times, self.duration_s, self.fps = video.times, video.duration_s, video.fps
        self._video = video
        self._read: list[str] = []

    def read(self, pictures: Sequence[int]) -> Tensor:
        pixels = self._video.read(pictures)
        self._read.append(digest(pixels))
        return pixels

    def take_note(self) -> str:
        """What was read since the last call, by content."""
        note, self._read = " ".join(self._read), []
        return note


@dataclass(frozen=True)
class PoseGuide:
    """A pose video, and how it counts.

    Attributes:
        strength: 1 as in the reference, 0 as without a pose. steps: shares of the steps between which the model sees it.
        end: what is shown behind its last picture, one of POSE_ENDS.
    """

    video: PoseVideo
    strength: float = 1.0
    steps: tuple[float, float] = ALL_STEPS
    end: str = POSE_ENDS[0]


def pose_slots(timeline: Timeline, clip: int, pose: PoseVideo, end: str = "hold") -> list[int | None]:
    """Picture of each slot of a clip; None where the pose has run out.

    `official` takes every n-th picture (n = its rate / that of the video, rounded) and runs out, as the reference. `aligned` takes the
    picture on screen in the middle of the video frame.

    Args:
        end: what `aligned` does behind the last picture, one of POSE_ENDS.
    """
    slots = range(clip * timeline.frames_per_clip, (clip + 1) * timeline.frames_per_clip)
    if timeline.sync_mode == "official":
        step = max(1, round(pose.fps / timeline.fps))
        return [slot * step if slot * step < len(pose.times) else None for slot in slots]
    return [_picture_at(pose, middle_of_frame(max(0, slot - timeline.dropped_frames), timeline.fps), end) for slot in slots]


def middle_of_frame(frame: int, fps: int) -> Fraction:
    """Seconds from the start of the video to the middle of a frame."""
    return Fraction(2 * frame + 1, 2 * fps)


def _picture_at(pose: PoseVideo, seconds: Fraction, end: str) -> int | None:
    if seconds >= pose.duration_s and end != "hold":
        if end == "release":
            return None
        seconds %= pose.duration_s
    return bisect_right(pose.times, seconds) - 1


def warn_if_short(timeline: Timeline, pose: PoseVideo, end: str) -> None:
    """Say in the log what happens where the pose ends before the video."""
    if timeline.sync_mode == "aligned" and middle_of_frame(timeline.num_frames - 1, timeline.fps) >= pose.duration_s:
        what = {"hold": "its last picture stays", "loop": "it starts again", "release": "the model moves freely from there"}[end]
        length_s, video_s = float(pose.duration_s), timeline.seconds
        logger.warning("the pose lasts %.2f s and the video %.2f s: %s (at_end: %s)", length_s, video_s, what, end)


def pose_latents(timeline: Timeline, guide: PoseGuide, height: int, width: int, encode: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Latents of each clip, [1, 16, F, h, w]; only the pictures of one clip are in memory.

    Latents of 0 are no pose to the model, and its pose layer is linear: latents times a number are the pose with that strength.

    Args:
        encode: [T, height, width, 3] pixels in [0, 1] -> [1, 16, (T + 3) / 4, h, w].
    """
    before: list[int | None] = []
    video = _NotedPose(guide.video)
    for clip in range(timeline.num_clips):
        slots = pose_slots(timeline, clip, guide.video, guide.end)
        if slots != before:  # a picture that is held fills clip after clip
            latents = _clip_latents(timeline, video, slots, height, width, encode) * guide.strength
            made_of(latents, f"pose {video.take_note()} {slots.count(None)} {guide.strength}")
            before = slots
        yield latents


def keep_in_file(latents: Iterable[Tensor], folder: Path | None) -> tuple[Tensor, ...]:
    """Latents of each clip as they were, read from a file when they are used: those of an hour at 832x480 are 5.7 GB.

    No name leads to the file, so that not even a crash leaves it; it is gone when the tensors are.

    Args:
        latents: [1, 16, F, h, w] float32 each; one that comes twice in a row is kept once.
        folder: for the file; None where the system keeps such.
    """
    kept: list[int] = []  # number in the file of each clip
    origins: list[str] = []
    before = torch.empty(0)
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for clip in latents:
                if clip is not before:
                    file.write(clip.contiguous().numpy().data)
                kept.append(kept[-1] + (clip is not before) if kept else 0)
                origins.append(origin_of(clip))
                before = clip
            file.flush()
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        reason = f"The pose of this video cannot be kept in {folder or tempfile.gettempdir()} ({error.strerror or error})."
        raise OSError(error.errno, f"{reason} Free some GB there, or choose a shorter `duration`.") from error
    stored = torch.frombuffer(mapping, dtype=torch.float32).view(-1, *before.shape)
    return tuple(made_of(stored[number], origin) for number, origin in zip(kept, origins, strict=True))


def _clip_latents(
    timeline: Timeline, pose: PoseVideo, slots: list[int | None], height: int, width: int, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Encode behind a copy of the first picture, whose latent is dropped, as the reference does.

    Where the pose has run out `official` shows black, as the reference. `aligned` goes on with latents of 0; a latent that has a picture
    for some of its frames keeps it for all.
    """
    shown = [number for number in slots if number is not None]
    if timeline.sync_mode == "official":
        return encode(_with_first_twice(_fitted(pose, shown, len(slots), height, width, cover=False)))[:, :, 1:]
    latents = torch.zeros(1, LATENT_CHANNELS, timeline.num_latent_frames, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE)
    if shown:
        held = shown + shown[-1:] * (-len(shown) % TEMPORAL_STRIDE)
        encoded = encode(_with_first_twice(_fitted(pose, held, len(held), height, width, cover=True)))[:, :, 1:]
        latents[:, :, : encoded.shape[2]] = encoded
    return latents


def _fitted(pose: PoseVideo, pictures: list[int], count: int, height: int, width: int, *, cover: bool) -> Tensor:
    """[count, height, width, 3]; black behind the pictures. A few large ones at a time are in memory."""
    pixels = torch.zeros(count, height, width, 3)
    for start in range(0, len(pictures), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        pixels[: len(pictures)][part] = fit_frames(pose.read(pictures[part]), height, width, cover=cover)
    return pixels


def _with_first_twice(pixels: Tensor) -> Tensor:
    return torch.cat([pixels[:1], pixels])
