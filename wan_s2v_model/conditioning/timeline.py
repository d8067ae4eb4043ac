"""Which frame belongs to which clip and to which sound. Integers only, no tensors.

A clip has `frames_per_clip` slots. When clip 0 starts freely, the reference latent primes the decoder and spoils the first 3 frames,
which are dropped. The reference nevertheless plays the sound from 0, so its picture leads by 3 frames (187.5 ms at 16 fps). Mode `aligned`
delays the audio features by those 3 slots instead, so that video frame v is conditioned on, and played with, audio frame v.
"""

from dataclasses import dataclass
from fractions import Fraction

from ..audio.features import num_audio_frames, num_audio_rows, num_wav2vec_frames
from ..constants import AUDIO_HZ, DEFAULT_FRAMES_PER_CLIP, DROPPED_FRAMES, MOTION_FRAMES, TEMPORAL_STRIDE, VIDEO_FPS

SYNC_MODES = ("aligned", "official")


@dataclass(frozen=True)
class Timeline:
    """Clips of one video.

    Attributes:
        num_frames: frames of the finished video.
        num_audio_frames: video frames for which audio features exist.
        free_start: clip 0 starts from noise alone (its first 3 frames are dropped).
        fps: frames per second of the video, one of FRAME_RATES.
    """

    sync_mode: str
    frames_per_clip: int
    num_clips: int
    num_frames: int
    num_audio_frames: int
    free_start: bool
    fps: int = VIDEO_FPS

    @property
    def dropped_frames(self) -> int:
        """Frames cut from the start of clip 0."""
        return DROPPED_FRAMES if self.free_start else 0

    @property
    def audio_shift(self) -> int:
        """Slots by which the audio features are delayed."""
        return self.dropped_frames if self.sync_mode == "aligned" else 0

    @property
    def num_latent_frames(self) -> int:
        return self.frames_per_clip // TEMPORAL_STRIDE

    @property
    def num_generated_frames(self) -> int:
        """Frames that leave the decoder, before the last clip is cut to the length of the video."""
        return self.num_clips * self.frames_per_clip - self.dropped_frames

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return self.num_frames / self.fps

    @property
    def clip_starts_s(self) -> list[float]:
        """When each clip begins."""
        return [self.first_frame(clip) / self.fps for clip in range(self.num_clips)]

    def first_frame(self, clip: int) -> int:
        """Index in the video of the first frame of a clip."""
        return max(0, clip * self.frames_per_clip - self.dropped_frames)

    def clip_frames(self, clip: int) -> int:
        """Frames that a clip adds to the video."""
        end = min(self.num_frames, (clip + 1) * self.frames_per_clip - self.dropped_frames)
        return max(0, end - self.first_frame(clip))

    def audio_frames(self, clip: int) -> list[int | None]:
        """Audio frame of each slot of a clip; before the start the first one repeats, past the end there is none."""
        return self._heard(clip, range(self.frames_per_clip))

    def audio_history(self, clip: int) -> list[int | None]:
        """Audio frames of the 73 slots before a clip; before the start the first one repeats."""
        return self._heard(clip, range(-MOTION_FRAMES, 0))

    def _heard(self, clip: int, slots: range) -> list[int | None]:
        start = clip * self.frames_per_clip - self.audio_shift
        frames = (max(0, start + slot) for slot in slots)
        return [frame if frame < self.num_audio_frames else None for frame in frames]


def plan_timeline(
    num_samples: int,
    sample_rate_hz: int,
    num_samples_16khz: int,
    *,
    sync_mode: str = "aligned",
    frames_per_clip: int = DEFAULT_FRAMES_PER_CLIP,
    free_start: bool = True,
    max_clips: int = 0,
    fps: int = VIDEO_FPS,
) -> Timeline:
    """Divide the sound into clips.

    Args:
        num_samples, sample_rate_hz: of the sound that will be played.
        num_samples_16khz: of the same sound at 16 kHz.
        max_clips: upper limit; 0 means as many as the sound needs. fps: one of FRAME_RATES.
    """
    rows = num_audio_rows(num_wav2vec_frames(num_samples_16khz))
    duration = Fraction(num_samples * fps, sample_rate_hz)  # in frames
    dropped = DROPPED_FRAMES if free_start else 0
    if sync_mode == "aligned":
        num_frames = max(1, round(duration))
        clips = -(-(num_frames + dropped) // frames_per_clip)
    else:
        num_frames = max(1, int(duration))
        clips = int(rows / (frames_per_clip * (AUDIO_HZ / fps))) + 1
    if max_clips > 0:
        clips = min(clips, max_clips)
    return Timeline(
        sync_mode=sync_mode,
        frames_per_clip=frames_per_clip,
        num_clips=clips,
        num_frames=min(num_frames, clips * frames_per_clip - dropped),
        num_audio_frames=num_audio_frames(rows, fps),
        free_start=free_start,
        fps=fps,
    )
