"""A video that grows while its run is sampled, and plays at any moment."""

import contextlib
import logging
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

from safetensors import SafetensorError
from torch import Tensor

from ..files import TEMPORARY_SUFFIX, discard, make_way
from ..media.video_formats import LIVE_FORMAT
from ..media.video_reader import count_frames
from ..media.video_writer import VideoWriter
from ..sampling.progress import clip_place
from ..untrusted import require_plain
from .clips import Clips
from .manifest import LIVE_VIDEO_NAME

QUALITY = 23
MOST_ENCODED_AGAIN = 20  # clips of a run that goes on, 12 seconds of one CPU at 832x480
NOTHING = range(0)
PATIENCE_S = 10.0  # for the last clips, when the run is finished

logger = logging.getLogger("wan_s2v")


class Part(NamedTuple):
    """Frames [T, H, W, 3] uint8 of a clip that is being made."""

    clip: int
    frames: Tensor


class LiveVideo:
    """Encodes stored clips in a thread of its own, from the run folder, so that nobody waits and no frames are kept in memory.

    Nothing that goes wrong here ends the run: it is logged, and the video stays as long as it is. Use it as a context manager.
    """

    def __init__(self, clips: Clips, num_stored: int, on_grown: Callable[[Path], None], shown: range = NOTHING) -> None:
        """Start with the clips that a resumed run has already.

        Args:
            on_grown: called with the file after each clip, in the encoding thread.
            shown: the clips that the file holds from before, as they are stored. They are not encoded again; if the file is gone, or holds
                none of the newest clips, the video begins at the newest `MOST_ENCODED_AGAIN` of them.
        """
        self.path = clips.folder / LIVE_VIDEO_NAME
        self.shown = NOTHING
        self._before = shown if num_stored - shown.stop <= MOST_ENCODED_AGAIN else NOTHING
        self._num_stored = num_stored
        self._clips = clips
        self._on_grown = on_grown
        self._waiting: queue.SimpleQueue[int | Part | None] = queue.SimpleQueue()
        self._newest = -1  # clip of which it was given frames
        self._given: Counter[int] = Counter()  # clip -> frames of it that came before the store had it
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._encode_all, name="wan_s2v_live_video", daemon=True)
        self._thread.start()

    def consume(self, clip: int) -> None:
        """Append a clip that the store has; returns at once."""
        self._waiting.put(clip)

    def consume_frames(self, clip: int, start: int, frames: Tensor) -> None:
        """Append frames [T, H, W, 3] uint8 of a clip, in their order, before the store has it; returns at once.

        Args:
            start: number of the first one in the clip. A clip that is made once more brings frames that are there; they are left out.
        """
        new = frames[max(0, self._given[clip] - start) :]
        self._given[clip] += len(new)
        if len(new) and not self._stopped.is_set():  # else nobody would ever take them out of memory
            self._waiting.put(Part(clip, new))

    def close(self, *, wait_s: float = 0.0) -> None:
        """End the file, with the clips that can be encoded within that time."""
        self._waiting.put(None)
        self._thread.join(wait_s)
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> "LiveVideo":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close(wait_s=PATIENCE_S if kind is None else 0.0)

    def _encode_all(self) -> None:
        try:
            self._encode_clips()
        except (OSError, SafetensorError, ValueError, RuntimeError, IndexError) as error:
            logger.warning("no video in progress from here on: %s", error)
            self._stopped.set()
            with contextlib.suppress(queue.Empty):
                while True:
                    self._waiting.get_nowait()

    def _encode_clips(self) -> None:
        new_parts = cast(Iterator[int | Part], iter(self._waiting.get, None))
        first = [] if self._num_stored else [*islice(new_parts, 1)]
        if not self._num_stored and not first:
            return
        with self._begin() as writer:
            for part in chain(range(self.shown.stop, self._num_stored), first, new_parts):
                if self._stopped.is_set():
                    break
                self._append(writer, part)

    def _append(self, writer: VideoWriter, part: int | Part) -> None:
        """Frames, or a clip that is stored, whose frames may be there already."""
        is_written = isinstance(part, int) and part <= self._newest
        if not is_written:
            frames = self._clips.read_frames(part) if isinstance(part, int) else part.frames
            for image in frames.split(1):
                if self._stopped.is_set():
                    return
                writer.write(image)
        if isinstance(part, int):
            self.shown = range(self.shown.start, part + 1)
        else:
            self._newest = part.clip
        if not is_written:
            self._on_grown(self.path)

    def _begin(self) -> VideoWriter:
        """The file with the clips from before, or an empty one."""
        earlier = self.path.with_name(self.path.name + TEMPORARY_SUFFIX)
        if self._before:
            try:
                require_plain(self.path)
                make_way(earlier)
                shutil.copyfile(self.path, earlier)  # a browser may have it open, and then Windows renames it not
                return self._copied(earlier)
            except (OSError, ValueError, LookupError) as error:
                logger.info("the video in progress cannot be continued: %s", error)
            finally:
                discard(earlier)
        start = max(0, self._num_stored - MOST_ENCODED_AGAIN)
        if start:
            logger.info("the video in progress begins at %s", clip_place(start, self._clips.timeline.num_clips))
        self.shown = range(start, start)
        return self._writer(start)

    def _copied(self, earlier: Path) -> VideoWriter:
        """With the whole clips that the file holds: a kill leaves it without the newest frames."""
        timeline, shown = self._clips.timeline, self._before
        held = count_frames(earlier)
        while sum(map(timeline.clip_frames, shown)) > held:
            shown = shown[:-1]
        if self._num_stored - shown.stop > MOST_ENCODED_AGAIN or not shown:
            raise ValueError(f"it holds {held} frames")
        writer = self._writer(shown.start)
        try:
            writer.copy(earlier, sum(map(timeline.clip_frames, shown)))
        except BaseException:
            writer.abort()
            raise
        self.shown = shown
        return writer

    def _writer(self, first_clip: int) -> VideoWriter:
        clips = self._clips
        start = round(Fraction(clips.timeline.first_frame(first_clip) * clips.sample_rate_hz, clips.fps))
        sound = (clips.waveform[:, start:], clips.sample_rate_hz)
        return VideoWriter(
            self.path, width=clips.width, height=clips.height, fps=clips.fps, video_format=LIVE_FORMAT, quality=QUALITY, audio=sound
        )
