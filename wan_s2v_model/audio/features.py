"""Waveform -> wav2vec2 hidden states (50 Hz) -> 30 Hz -> one feature vector per video frame (16 or 25 fps). Pure tensors."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constants import AUDIO_HZ, SAMPLE_RATE_HZ, VIDEO_FPS, WAV2VEC_HZ
from ..media.sound import CHANNELS_PIECE, pieces
from .wav2vec2 import hidden_layers

WAV2VEC_WINDOW = 400  # samples under the first wav2vec2 frame
WAV2VEC_HOP = SAMPLE_RATE_HZ // WAV2VEC_HZ
SHORTEST_SOUND_S = 0.05  # from which features come: two frames of wav2vec2, rounded up


@dataclass(frozen=True)
class SilenceFeatures:
    """What the model hears where nobody speaks.

    Attributes:
        features: [layers, channels], the encoder's of digital silence. pauses: video frames within the sound that count as silence.
    """

    features: Tensor
    pauses: frozenset[int] = frozenset()


@dataclass(frozen=True)
class EncodedAudio:
    """A sound and what the model hears of it, or of another one beside it.

    Attributes:
        features: [layers, channels, frames] at `fps`; float32, or float16 in a mapped file when long.
        waveform: [C, T], the sound that will be played.
        num_samples_16khz: length of the sound that will be played, at 16 kHz; what is heard may end earlier.
        silence: heard in pauses and past the end; None is zeros past the end, as in the reference.
        fps: frame rate of the video that it is for, one of FRAME_RATES.
    """

    features: Tensor
    waveform: Tensor
    sample_rate_hz: int
    num_samples_16khz: int
    silence: SilenceFeatures | None = None
    fps: int = VIDEO_FPS


def normalise(waveform: Tensor) -> Tensor:
    """Zero mean and unit (population) variance over the whole file, as the reference's processor does."""
    return (waveform - waveform.mean()) / torch.sqrt(waveform.var(correction=0) + 1e-7)


def num_wav2vec_frames(num_samples: int) -> int:
    """Hidden states for that many samples at 16 kHz."""
    return max(0, (num_samples - WAV2VEC_WINDOW) // WAV2VEC_HOP + 1)


def num_audio_rows(num_wav2vec: int) -> int:
    """Rows at 30 Hz; the reference's double arithmetic, which is one below the exact value for some lengths."""
    return int(num_wav2vec / float(WAV2VEC_HZ) * AUDIO_HZ)


def row_of_frame(frame: int, fps: int = VIDEO_FPS) -> int:
    """Row at 30 Hz that video frame `frame` takes; ties go to the even row."""
    return round(AUDIO_HZ / fps * frame)


def num_audio_frames(num_rows: int, fps: int = VIDEO_FPS) -> int:
    """Video frames for which a row exists."""
    frames = int(num_rows * fps / AUDIO_HZ)
    while row_of_frame(frames, fps) < num_rows:
        frames += 1
    while frames > 0 and row_of_frame(frames - 1, fps) >= num_rows:
        frames -= 1
    return frames


def hidden_states(wav2vec2: torch.nn.Module, waveform: Tensor) -> Tensor:
    """All layers of `hidden_layers` at once: [layers + 1, frames, channels]."""
    return torch.stack([layer.clone() for layer in hidden_layers(wav2vec2, waveform)])


def resample_rows(hidden: Tensor) -> Tensor:
    """[layers, frames at 50 Hz, channels] -> [layers, rows at 30 Hz, channels], linear, first and last rows aligned."""
    rows = num_audio_rows(hidden.shape[1])
    if rows == 0:
        return hidden[:, :0]
    return F.interpolate(hidden.transpose(1, 2), size=rows, mode="linear", align_corners=True).transpose(1, 2)


def pick_frames(rows: Tensor, fps: int = VIDEO_FPS) -> Tensor:
    """[layers, rows at 30 Hz, channels] -> [layers, channels, frames at `fps`]."""
    index = [row_of_frame(frame, fps) for frame in range(num_audio_frames(rows.shape[1], fps))]
    return rows[:, index].transpose(1, 2)


def layer_at_fps(hidden: Tensor, fps: int = VIDEO_FPS) -> Tensor:
    """One layer [frames at 50 Hz, channels] -> [channels, frames at `fps`], float32 on the CPU; a few channels at a time."""
    out = torch.empty(hidden.shape[1], num_audio_frames(num_audio_rows(hidden.shape[0]), fps))
    for channels in pieces(hidden.shape[1], CHANNELS_PIECE):
        out[channels] = pick_frames(resample_rows(hidden[None, :, channels].float().cpu()), fps)[0]
    return out


def gather_frames(features: Tensor, frames: list[int | None], silence: SilenceFeatures | None = None) -> Tensor:
    """Features of one clip; None, pauses and frames past the end take those of silence, or zeros, as in the reference.

    Args:
        features: [layers, channels, frames], float32 or float16.
    Returns:
        [1, layers, channels, len(frames)] float32.
    """
    out = torch.zeros(*features.shape[:2], len(frames))
    if silence is not None:
        out += silence.features[..., None]
    pauses = frozenset() if silence is None else silence.pauses
    heard = {slot: frame for slot, frame in enumerate(frames) if frame is not None and frame < features.shape[2] and frame not in pauses}
    out[..., list(heard)] = features[..., list(heard.values())].float()
    return out[None]
