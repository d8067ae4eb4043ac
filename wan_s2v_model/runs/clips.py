"""The finished clips of a run: a handle on its folder, not the frames themselves."""

import contextlib
import shutil
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from ..conditioning.plan import Plan
from ..constants import MOTION_LATENTS
from ..files import reading
from ..media.video_source import VideoSource
from ..sampling.clip_loop import Decode, Encode, clip_decoder, decode_clip, find_anchor
from ..sampling.live_clips import LiveJob, live_frames
from .manifest import ManifestError, read_manifest
from .store import RunStore, RunStoreError


class Clips:
    """Frames on disk and the sound that belongs to them. While they are read nobody deletes or redoes the run.

    Args:
        delete_with_handle: remove the folder once nothing refers to this object any more (runs without a name).
        vae: ComfyUI's, that decoded the frames. vae_warmup: latents of motion that it was given before each clip.
    """

    def __init__(self, store: RunStore, plan: Plan, *, delete_with_handle: bool, vae: Any = None, vae_warmup: int = MOTION_LATENTS):
        self.folder: Path = store.folder
        self.vae = vae
        self._store = store
        self._hashes = store.hashes
        self._plan = plan
        self._vae_warmup = vae_warmup
        self.height, self.width = plan.height, plan.width
        self.timeline = plan.timeline
        self.fps = plan.timeline.fps
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

    def get_models(self) -> list:
        """What ComfyUI asks of a value to learn which models a prompt still needs."""
        return [] if self.vae is None else [self.vae.patcher]

    def frames(self) -> Iterator[Tensor]:
        """Frames of one clip after the other, each [T, H, W, 3] uint8.

        Raises:
            FileNotFoundError: the run folder was deleted. RunStoreError: the run was redone, or a clip is damaged.
        """
        with reading(self.folder):
            for clip in range(self.timeline.num_clips):
                self._require_unchanged()
                yield self.read_frames(clip)

    def source(self) -> VideoSource:
        """What is written as a video: the clips, or the video that they dub, in its own size and frame rate and with its other tracks."""
        sound, dub = (self.waveform, self.sample_rate_hz), self._plan.dub
        if dub is None:
            return VideoSource(self.width, self.height, Fraction(self.fps), self.frames(), sound, rounded_down=True)
        height, width = dub.dub.mask.shape[1:]
        video = dub.dub.video
        return VideoSource(width, height, dub.fps, dub.finished(self.frames()), sound, video.rounded_down, tracks_of=video.file)

    def read_frames(self, clip: int) -> Tensor:
        """The frames of a clip that is stored, [T, H, W, 3] uint8, while the run grows; for errors see `frames`."""
        self._require_folder()
        frames, wanted = self._store.read_frames(clip), (self.timeline.clip_frames(clip), self.height, self.width, 3)
        if tuple(frames.shape) != wanted:
            raise RunStoreError(
                f"clip {clip + 1} of run '{self._store.name}' is damaged: its frames are {list(frames.shape)}, not {list(wanted)}"
            )
        return frames

    def exact_frames(self, encode: Encode, decode: Decode, first_clip: int = 0) -> Iterator[Tensor]:
        """What the VAE gave for one clip after the other, each [T, H, W, 3] in [0, 1], decoded again from the stored latents.

        Args:
            encode, decode: of `vae`, as they were when the run was made; `decode` as for `clip_decoder`.
            first_clip: leave out the ones before.
        Raises: as `frames`.
        """
        plan, decode_as_sampled = self._plan, clip_decoder(decode, self.timeline.num_latent_frames, self._vae_warmup)
        with reading(self.folder):
            self._require_unchanged()
            anchor = find_anchor(plan, self._store.read_latents(0)[None], decode_as_sampled)
            for clip in range(first_clip, self.timeline.num_clips):
                self._require_unchanged()
                latents, motion_latents = self._store.read_latents(clip)[None], self._motion_latents(clip, encode)
                frames = decode_clip(plan, clip, latents, motion_latents, decode_as_sampled, anchor)
                yield frames[: self.timeline.clip_frames(clip)]

    def _motion_latents(self, clip: int, encode: Encode) -> Tensor | None:
        if clip > 0:
            return self._store.read_motion_latents(clip - 1)
        return None if self._plan.history is None else encode(self._plan.history)

    def _require_unchanged(self) -> None:
        """Another queue, or another process, may have redone the run since these clips were handed on."""
        self._require_folder()
        hashes: tuple[str, ...] = ()
        with contextlib.suppress(OSError, ManifestError):
            hashes = read_manifest(self.folder).hashes
        if hashes[: len(self._hashes)] != self._hashes:
            raise RunStoreError(
                f"Run '{self._store.name}' has changed since these clips were made: it was redone or cut short. Queue the prompt again."
            )

    def _require_folder(self) -> None:
        if not self.folder.is_dir():
            raise FileNotFoundError(f"The frames of this run are gone: {self.folder} does not exist. Queue the prompt again.")


class LiveClips(Clips):
    """Clips of a live video, which one decoder has decoded from the first to the last; `open_decoder` gives one that has seen nothing."""

    def __init__(self, store: RunStore, job: LiveJob, *, delete_with_handle: bool, vae: Any, open_decoder: Callable[[], Decode]):
        super().__init__(store, job.plan, delete_with_handle=delete_with_handle, vae=vae)
        self._job, self._open_decoder = job, open_decoder

    def exact_frames(self, encode: Encode, decode: Decode, first_clip: int = 0) -> Iterator[Tensor]:
        """As of `Clips`; only what the first clip depends on is decoded before it."""
        with reading(self.folder):
            self._require_unchanged()
            for frames in live_frames(self._job, self._store, first_clip, encode, self._open_decoder):
                self._require_unchanged()
                yield frames
