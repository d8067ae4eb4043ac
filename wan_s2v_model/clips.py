"""The finished clips of a run: a handle on its folder, not the frames themselves."""

import shutil
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from .constants import VIDEO_FPS
from .pipeline import Plan
from .run_store import RunStore


class Clips:
    """Frames on disk and the sound that belongs to them.

    Args:
        delete_with_handle: remove the folder once nothing refers to this object any more (runs without a name).
    """

    fps = VIDEO_FPS

    def __init__(self, store: RunStore, plan: Plan, *, delete_with_handle: bool):
        self.folder: Path = store.folder
        self._store = store
        self.height, self.width = plan.height, plan.width
        self.timeline = plan.timeline
        self.sample_rate_hz = plan.sample_rate_hz
        self._waveform = plan.waveform
        if delete_with_handle:
            weakref.finalize(self, shutil.rmtree, store.folder, ignore_errors=True)

    @property
    def num_frames(self) -> int:
        return self.timeline.num_frames

    @property
    def waveform(self) -> Tensor:
        """[C, T]: the sound, cut to the duration of the frames."""
        return self._waveform[:, : round(Fraction(self.num_frames * self.sample_rate_hz, self.fps))]

    def frames(self) -> Iterator[Tensor]:
        """Frames of one clip after the other, each [T, H, W, 3] uint8.

        Raises:
            FileNotFoundError: if the run folder was deleted.
        """
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"The frames of this run are gone: {self.folder} does not exist. Queue the prompt again with another seed or run name."
            )
        for clip in range(self.timeline.num_clips):
            yield self._store.read_frames(clip)
