"""The plan of a video: everything that decides it except the model, the prompt and the sampler, and what each clip is told of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..audio.features import EncodedAudio, SilenceFeatures, gather_frames
from ..audio.speakers import JoinedAudio, Speakers
from ..constants import LIVE_FPS, LIVE_FRAMES_PER_CLIP
from .clip import ALL_STEPS, ClipConditioning
from .dub import Dub, FittedDub
from .pose import PoseGuide, keep_in_file, pose_latents, warn_if_short
from .regions import SpeakerRegions, speaker_regions
from .timeline import Timeline, plan_timeline

ANCHORS = ("off", "latent statistics", "colour transfer")
SEED_POLICIES = ("seed + clip", "same seed")


@dataclass(frozen=True)
class Continuity:
    """How clips follow each other.

    Attributes:
        anchor: one of ANCHORS. strength: share of the measured drift that is taken back, 0 to 1.
        seed_policy: one of SEED_POLICIES.
    """

    anchor: str = ANCHORS[0]
    strength: float = 1.0
    seed_policy: str = SEED_POLICIES[0]

    @property
    def latent_strength(self) -> float:
        return self.strength if self.anchor == "latent statistics" else 0.0

    @property
    def colour_strength(self) -> float:
        return self.strength if self.anchor == "colour transfer" else 0.0

    def seeded_as(self, clip: int) -> int:
        """The clip whose seed a clip takes."""
        return 0 if self.seed_policy == "same seed" else clip


AS_REFERENCE = Continuity()


@dataclass(frozen=True)
class VideoShape:
    """Size, clips and sync of a video.

    Attributes:
        height, width: pixels. frames_per_clip: not used at 25 fps, where clips have 48. max_clips: 0 means as many as the sound needs.
        sync_mode: one of SYNC_MODES.
        picture: height and width of the picture before it is fitted, on which regions are drawn; None: those of the video.
    """

    height: int
    width: int
    frames_per_clip: int
    max_clips: int
    sync_mode: str
    picture: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def covers(self) -> bool:
        """Whether pictures fill the whole video; in mode `official` some of it stays black, as in the reference."""
        return self.sync_mode == "aligned"


@dataclass(frozen=True)
class Plan:
    """Everything that decides a video except the model, the prompt and the sampler; CPU tensors only.

    Attributes:
        audio_features: [layers, channels, frames] at the rate of the timeline. waveform: [C, T], the sound that will be played.
        ref_latents: [1, 16, 1, h, w] normalised. pose_latents: one [1, 16, F, h, w] per clip, in a file, or None.
        history: [73, height, width, 3] frames before clip 0, or None when it starts freely.
        continuity: what the sampler sets beside: seeds and anchor.
        silence: heard in pauses and past the end of the sound; None as in the reference.
        real_audio_history: the audio encoder is given the sound before a clip; otherwise the clip's first frame repeats.
        pose_steps: shares of the steps between which the model sees the pose. dub: the video that is given the sound, or None.
        speakers, regions: of several who each speak in a region of their own; None where all hear the one sound.
        picture: [height, width, 3] in [0, 1], for live video.
    """

    timeline: Timeline
    height: int
    width: int
    audio_features: Tensor
    waveform: Tensor
    sample_rate_hz: int
    ref_latents: Tensor
    pose_latents: tuple[Tensor, ...] | None = None
    history: Tensor | None = None
    continuity: Continuity = AS_REFERENCE
    silence: SilenceFeatures | None = None
    real_audio_history: bool = False
    pose_steps: tuple[float, float] = ALL_STEPS
    speakers: Speakers | None = None
    regions: SpeakerRegions | None = None
    picture: Tensor | None = None
    dub: FittedDub | None = None

    def with_dub(self, dub: Dub) -> "Plan":
        """The same sound over a video; ValueError as of `Dub.require_video`."""
        dub.require_video(self.timeline.fps, self.timeline.sync_mode, self.height, self.width)
        return replace(self, dub=FittedDub(dub, self.timeline, self.height, self.width))

    @property
    def strength(self) -> float:
        """1 begins from noise; less in a dub from its source."""
        return 1.0 if self.dub is None else self.dub.dub.strength

    def require_audio(self, num_layers: int, audio_dim: int) -> None:
        """Raise ValueError if the plan's audio encoder has another size than the MODEL needs: so many layers of so many values."""
        layers, channels = self.audio_features.shape[:2]
        if (layers, channels) != (num_layers, audio_dim):
            raise ValueError(
                f"The sound of the plan has {layers} layers of {channels} values, and this MODEL needs {num_layers} of {audio_dim}: "
                "it comes from another audio encoder. Use Load Wan S2V Audio Encoder with wav2vec2_large_english_fp16.safetensors."
            )

    def require_rate(self, fps: int, sampler: str) -> None:
        """Raise ValueError if the plan has another frame rate than a sampler makes."""
        if self.timeline.fps != fps:
            raise ValueError(
                f"{sampler} makes {fps} frames per second, and this plan has {self.timeline.fps}. Set frame_rate to {fps} in Encode Audio "
                "(Wan S2V)."
            )

    def conditioning(self, clip: int, motion_latents: Tensor | None) -> ClipConditioning:
        """What the transformer is told about a clip, beside the text; `motion_latents` as there."""
        before = self.timeline.audio_history(clip) if self.real_audio_history else []
        frames = self.timeline.audio_frames(clip) + before
        heard = gather_frames(self.audio_features, frames, self.silence) if self.speakers is None else self.speakers.heard(frames)
        return ClipConditioning(
            audio_embedding=heard,
            ref_latents=self.ref_latents,
            motion_latents=motion_latents,
            pose_latents=None if self.pose_latents is None else self.pose_latents[clip],
            pose_steps=self.pose_steps,
            hearing=None if self.regions is None else self.regions.of_clip(self.timeline, clip),
        )


def plan_video(
    audio: EncodedAudio,
    shape: VideoShape,
    picture: Tensor,
    history: Tensor | None,
    pose: PoseGuide | None,
    *,
    encode: Callable[[Tensor], Tensor],
    real_audio_history: bool = False,
    folder: Path | None = None,
) -> Plan:
    """Divide the sound into clips, and encode what they are told.

    Args:
        picture: [height, width, 3] in [0, 1]. history: of `start_history`.
        encode: [T, H, W, 3] pixels in [0, 1] -> [1, 16, F, h, w] normalised latents. real_audio_history: see `Plan`.
        folder: for the file of the pose, see `keep_in_file`.
    """
    speakers = audio.speakers if isinstance(audio, JoinedAudio) else None
    regions = None
    if speakers is not None:
        regions = speaker_regions(speakers, shape.picture or shape.size, *shape.size, cover=shape.covers)
    timeline = plan_timeline(
        audio.waveform.shape[1],
        audio.sample_rate_hz,
        audio.num_samples_16khz,
        sync_mode=shape.sync_mode,
        frames_per_clip=LIVE_FRAMES_PER_CLIP if audio.fps == LIVE_FPS else shape.frames_per_clip,
        free_start=history is None,
        max_clips=shape.max_clips,
        fps=audio.fps,
    )
    poses = None
    if pose is not None:
        warn_if_short(timeline, pose.video, pose.end)
        poses = keep_in_file(pose_latents(timeline, pose, shape.height, shape.width, encode), folder)
    return Plan(
        timeline=timeline,
        height=shape.height,
        width=shape.width,
        audio_features=audio.features,
        waveform=audio.waveform,
        sample_rate_hz=audio.sample_rate_hz,
        ref_latents=encode(picture[None]),
        pose_latents=poses,
        history=history,
        pose_steps=ALL_STEPS if pose is None else pose.steps,
        silence=audio.silence,
        real_audio_history=real_audio_history,
        speakers=speakers,
        regions=regions,
        picture=picture,
    )
