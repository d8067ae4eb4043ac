"""A video that grows while its run is sampled, and plays at any moment."""

import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError

from ..media.video_formats import LIVE_FORMAT
from ..media.video_writer import VideoWriter
from .clips import Clips
from .manifest import LIVE_VIDEO_NAME

QUALITY = 23
PATIENCE_S = 10.0  # for the last clips, when the run is finished

logger = logging.getLogger("wan_s2v")


class LiveVideo:
    """Encodes stored clips in a thread of its own, from the run folder, so that nobody waits and no frames are kept in memory.

    Nothing that goes wrong here ends the run: it is logged, and the video stays as long as it is. Use it as a context manager.
    """

    def __init__(self, clips: Clips, num_stored: int, on_grown: Callable[[Path], None]) -> None:
        """Start with the clips that a resumed run has already.

        Args:
            on_grown: called with the file after each clip, in the encoding thread.
        """
        self.path = clips.folder / LIVE_VIDEO_NAME
        self._clips = clips
        self._on_grown = on_grown
        self._waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for clip in range(num_stored):
            self._waiting.put(clip)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._encode_all, name="wan_s2v_live_video", daemon=True)
        self._thread.start()

    def consume(self, clip: int) -> None:
        """Append a clip that the store has; returns at once."""
        self._waiting.put(clip)

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

    def _encode_clips(self) -> None:
        clip = self._waiting.get()
        if clip is None:
            return
        clips = self._clips
        sound = (clips.waveform, clips.sample_rate_hz)
        with VideoWriter(
            self.path, width=clips.width, height=clips.height, fps=clips.fps, video_format=LIVE_FORMAT, quality=QUALITY, audio=sound
        ) as writer:
            while clip is not None and not self._stopped.is_set():
                for image in clips.read_frames(clip).split(1):
                    if self._stopped.is_set():
                        break
                    writer.write(image)
                self._on_grown(self.path)
                clip = self._waiting.get()
