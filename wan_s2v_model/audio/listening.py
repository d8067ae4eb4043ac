"""From a chosen sound to what the model hears of it: prepared, encoded by wav2vec2, kept at the frame rate of the video."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import SAMPLE_RATE_HZ, VIDEO_FPS
from ..media.sound import to_mono_16khz
from .feature_file import collect_features
from .features import SHORTEST_SOUND_S, EncodedAudio, SilenceFeatures, num_audio_frames, num_audio_rows, num_wav2vec_frames
from .preparation import find_pauses, length_at_16khz, prepare_heard
from .selection import Sound

SILENCE_S = 5  # of silence; wav2vec2 looks 1.3 s around, so that the middle of it knows no beginning and no end


class Listener(NamedTuple):
    """An audio encoder and the means it has.

    Attributes:
        hidden_layers: normalised [T] at 16 kHz -> the layers of wav2vec2, one after the other, each [frames, channels] at 50 Hz.
        folder: for what does not fit into memory.
        run: does a piece of work, and again in less memory where that ran out.
    """

    hidden_layers: Callable[[Tensor], Iterator[Tensor]]
    folder: Path
    run: Callable[[Callable[[], Tensor]], Tensor]


def listen(
    listener: Listener, played: Sound, heard: Sound, *, normalisation: str, silence: str, delay_ms: int, fps: int = VIDEO_FPS
) -> EncodedAudio:
    """Encode the sound that drives the video.

    Args:
        played: what the video plays, as long as the video. heard: what the model hears instead, or the same sound.
        normalisation, silence: one of NORMALISATIONS and of SILENCES. delay_ms: how much later the mouth moves than the sound.
        fps: frame rate of the video, one of FRAME_RATES.
    """
    mono = to_mono_16khz(*heard)
    num_samples = mono.shape[0] if heard is played else length_at_16khz(played.waveform.shape[1], played.sample_rate_hz)
    waveform = prepare_heard(mono, num_samples, normalisation=normalisation, delay_ms=delay_ms)
    features = _features(listener, waveform, fps)
    return EncodedAudio(features, *played, num_samples, _silence_features(listener, silence, waveform, fps), fps)


def _features(listener: Listener, waveform: Tensor, fps: int) -> Tensor:
    """Normalised [T] at 16 kHz -> features [layers, channels, frames]."""
    num_rows = num_audio_rows(num_wav2vec_frames(waveform.shape[0]))
    if num_rows == 0:
        raise ValueError(
            f"The selected sound lasts {waveform.shape[0] / SAMPLE_RATE_HZ:.3f} s as the model hears it; at least {SHORTEST_SOUND_S} s is "
            "needed. Choose a longer duration, or a smaller sync_offset."
        )
    num_frames = num_audio_frames(num_rows, fps)
    return listener.run(lambda: collect_features(listener.hidden_layers(waveform), num_frames, listener.folder, fps))


def rest(listener: Listener, fps: int = VIDEO_FPS) -> Tensor:
    """What the model hears of digital silence: [layers, channels]."""
    return _features(listener, torch.zeros(SILENCE_S * SAMPLE_RATE_HZ), fps)[..., SILENCE_S * fps // 2].clone()


def _silence_features(listener: Listener, silence: str, waveform: Tensor, fps: int) -> SilenceFeatures | None:
    """What is heard in silence, by one short pass of the encoder over digital silence; None where the model hears zeros.

    Args:
        silence: one of SILENCES. waveform: [T] at 16 kHz, in which pauses are looked for.
    """
    if silence == "model":
        return None
    return SilenceFeatures(rest(listener, fps), find_pauses(waveform, fps) if silence == "rest in pauses" else frozenset())
