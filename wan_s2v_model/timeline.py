"""Which frame belongs to which clip, which sound and which pose picture. Integers only, no tensors.

A clip has `frames_per_clip` slots. When clip 0 starts freely, the reference latent primes the decoder and spoils the first 3 frames,
which are dropped. The reference nevertheless plays the sound from 0, so its picture leads by 3 frames (187.5 ms). Mode `aligned` delays
the audio features by those 3 slots instead, so that video frame v is conditioned on, and played with, audio frame v.
"""

from dataclasses import dataclass
from fractions import Fraction

from .audio_features import num_audio_frames, num_audio_rows, num_wav2vec_frames
from .constants import AUDIO_HZ, DROPPED_FRAMES, TEMPORAL_STRIDE, VIDEO_FPS

SYNC_MODES = ("aligned", "official")


@dataclass(frozen=True)
class Timeline:
    """Clips of one video.

    Attributes:
        num_frames: frames of the finished video.
        num_audio_frames: frames at 16 fps for which audio features exist.
        free_start: clip 0 starts from noise alone (its first 3 frames are dropped).
    """

    sync_mode: str
    frames_per_clip: int
    num_clips: int
    num_frames: int
    num_audio_frames: int
    free_start: bool

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

    def first_frame(self, clip: int) -> int:
        """Index in the video of the first frame of a clip."""
        return max(0, clip * self.frames_per_clip - self.dropped_frames)

    def clip_frames(self, clip: int) -> int:
        """Frames that a clip adds to the video."""
        end = min(self.num_frames, (clip + 1) * self.frames_per_clip - self.dropped_frames)
        return max(0, end - self.first_frame(clip))

    def audio_frames(self, clip: int) -> list[int | None]:
        """Audio frame of each slot of a clip; before the start the first one repeats, past the end there is none."""
        start = clip * self.frames_per_clip - self.audio_shift
        frames = (max(0, start + slot) for slot in range(self.frames_per_clip))
        return [frame if frame < self.num_audio_frames else None for frame in frames]

    def pose_frames(self, clip: int, num_pose_frames: int, pose_fps: float) -> list[int | None]:
        """Pose picture of each slot of a clip; None is a missing picture.

        `official` takes every n-th picture (n = fps / 16, rounded) and runs out; `aligned` takes the picture shown at the
        time of the video frame and holds the last one behind the end of the video.
        """
        slots = range(clip * self.frames_per_clip, (clip + 1) * self.frames_per_clip)
        if self.sync_mode == "official":
            step = max(1, round(pose_fps / VIDEO_FPS))
            return [slot * step if slot * step < num_pose_frames else None for slot in slots]
        times = (max(0, slot - self.dropped_frames) for slot in slots)
        return [min(num_pose_frames - 1, pose_index(frame, pose_fps)) for frame in times]


def pose_index(frame: int, pose_fps: float) -> int:
    """Pose picture on screen at the middle of a video frame."""
    return int((Fraction(2 * frame + 1, 2 * VIDEO_FPS)) * Fraction(pose_fps).limit_denominator(1001))


def plan_timeline(
    num_samples: int,
    sample_rate_hz: int,
    num_samples_16khz: int,
    *,
    sync_mode: str = "aligned",
    frames_per_clip: int = 80,
    free_start: bool = True,
    max_clips: int = 0,
) -> Timeline:
    """Divide the sound into clips.

    Args:
        num_samples, sample_rate_hz: of the sound that will be played.
        num_samples_16khz: of the sound that wav2vec2 hears.
        max_clips: upper limit; 0 means as many as the sound needs.
    """
    rows = num_audio_rows(num_wav2vec_frames(num_samples_16khz))
    duration = Fraction(num_samples * VIDEO_FPS, sample_rate_hz)  # in frames
    dropped = DROPPED_FRAMES if free_start else 0
    if sync_mode == "aligned":
        num_frames = max(1, round(duration))
        clips = -(-(num_frames + dropped) // frames_per_clip)
    else:
        num_frames = max(1, int(duration))
        clips = int(rows / (frames_per_clip * (AUDIO_HZ / VIDEO_FPS))) + 1
    if max_clips > 0:
        clips = min(clips, max_clips)
    return Timeline(
        sync_mode=sync_mode,
        frames_per_clip=frames_per_clip,
        num_clips=clips,
        num_frames=min(num_frames, clips * frames_per_clip - dropped),
        num_audio_frames=num_audio_frames(rows),
        free_start=free_start,
    )
