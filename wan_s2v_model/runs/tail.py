"""The last frames of a video at 16 fps, to continue from or to hand on: of clips, of a run folder, or of any other video."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO

import torch
from torch import Tensor

from ..constants import VIDEO_FPS
from ..files import reading
from ..media.frame_rate import exact_rate
from ..media.video_reader import VideoReader
from ..sampling.clip_loop import Decode, Encode
from .clips import Clips
from .manifest import Manifest
from .store import RunStore, RunStoreError

LEVELS = 255
SEEK_MARGIN_S = 1.0  # files say only roughly where they end


def tail_of_clips(clips: Clips, count: int, encode: Encode, decode: Decode) -> Tensor:
    """The very floats of the newest frames, [<= count, H, W, 3] in [0, 1]; decodes only the clips that hold them.

    Args:
        encode, decode: as in `Clips.exact_frames`.
    """
    timeline, wanted = clips.timeline, _pictures_of(count, clips.timeline.fps)
    first_clip = timeline.num_clips - 1
    while timeline.num_frames - timeline.first_frame(first_clip) < wanted and first_clip > 0:
        first_clip -= 1
    return tail_of_images(torch.cat(list(clips.exact_frames(encode, decode, first_clip))), timeline.fps, count)


def tail_of_run(store: RunStore, count: int) -> Tensor:
    """The newest frames that a run has, [<= count, H, W, 3] in [0, 1], from 8 bits per colour.

    The run was rounded down to 8 bits, so half a level is added: else every continuation would be a little darker than the one before.

    Raises:
        ValueError: the run has no finished clip. RunStoreError: a clip is damaged.
    """
    parts: list[Tensor] = []
    fps = Manifest(fingerprint=store.fingerprint).frame_rate
    clip = store.num_finished
    with reading(store.folder):
        while clip > 0 and sum(map(len, parts)) < _pictures_of(count, fps):
            clip -= 1
            parts.insert(0, store.read_frames(clip))
    if len({part.shape[1:] for part in parts}) > 1:
        raise RunStoreError(f"The clips in {store.folder} have pictures of different sizes. Use another run_name.")
    if not parts:
        raise ValueError(f"There is no finished clip in {store.folder}. Check run_name: it is that of Sample Video (Wan S2V).")
    return ((tail_of_images(torch.cat(parts), fps, count).float() + 0.5) / LEVELS).clamp_(max=1)


def tail_of_file(source: str | BytesIO, start_s: float, length_s: float, count: int) -> Tensor:
    """The newest frames of a video file by time, [<= count, H, W, 3] in [0, 1]; only its end is decoded.

    Args:
        source, start_s, length_s: the file and the part of it, as in `VideoReader`.
    Raises:
        ValueError: the file cannot be read or has no pictures.
    """
    duration_s = VideoReader(source, start_s, length_s).duration_s
    skipped_s = max(0.0, float(duration_s) - count / VIDEO_FPS - SEEK_MARGIN_S)
    with VideoReader(source, start_s + skipped_s, length_s and length_s - skipped_s) as reader:
        return reader.read(tail_pictures(reader.times, reader.duration_s, count))


def tail_of_images(images: Tensor, fps: float | Fraction, count: int) -> Tensor:
    """The newest frames by time of a video that is in memory, [T, H, W, 3] at `fps`."""
    if fps == VIDEO_FPS:
        return images[-count:, ..., :3]
    fps = exact_rate(fps)
    return images[tail_pictures([number / fps for number in range(len(images))], len(images) / fps, count), ..., :3]


def _pictures_of(count: int, fps: int) -> int:
    """At `fps` for so many at 16."""
    return -(-count * fps // VIDEO_FPS)


def tail_pictures(times: Sequence[Fraction], duration_s: Fraction, count: int) -> list[int]:
    """Numbers of the pictures on screen in the middle of the last `count` frames at 16 fps, the last of which ends with the video.

    Args:
        times: seconds at which each picture appears, rising. duration_s: when the last one goes.
    Returns:
        As many as the video lasts, at least one.
    """
    count = min(count, max(1, round((duration_s - times[0]) * VIDEO_FPS)))
    middles = (duration_s - Fraction(2 * left + 1, 2 * VIDEO_FPS) for left in reversed(range(count)))
    return [max(0, bisect_right(times, middle) - 1) for middle in middles]
