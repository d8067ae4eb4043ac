"""Audio encoding."""

import logging
import math
from pathlib import Path
from typing import NamedTuple

import folder_paths
import torch
from comfy_api.latest import io

from ..wan_s2v_model import audio_features, comfy_bridge
from ..wan_s2v_model.audio_features import EncodedAudio, Rest
from ..wan_s2v_model.audio_preparation import NORMALISATIONS, SILENCES, find_pauses, length_at_16khz, prepare_heard
from ..wan_s2v_model.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from ..wan_s2v_model.feature_file import collect_features
from ..wan_s2v_model.loudness import bring_to_loudness
from ..wan_s2v_model.stereo import fold_down
from .linked_inputs import checks_inputs
from .sockets import WanS2VAudio

logger = logging.getLogger("wan_s2v")

MEMORY_ADVICE = "Close other programs that use the GPU, or set dtype to fp16 in Load Wan S2V Audio Encoder."
SILENT_PEAK = 1e-4  # amplitude
REST_S = 5  # of silence; wav2vec2 looks 1.3 s around, so that the middle of it knows no beginning and no end


class Sound(NamedTuple):
    waveform: torch.Tensor  # [C, T]
    sample_rate_hz: int

    @property
    def seconds(self) -> float:
        return self.waveform.shape[1] / self.sample_rate_hz


class WanS2VAudioEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VAudioEncode",
            display_name="Encode Audio (Wan S2V)",
            category="wan s2v/conditioning",
            description="Listens to speech or singing. The chosen part drives the mouth and is played in the video.",
            search_aliases=["wav2vec2", "speech", "lip sync", "s2v"],
            inputs=[
                io.AudioEncoder.Input("audio_encoder", tooltip="wav2vec2 from Load Wan S2V Audio Encoder."),
                io.Audio.Input("audio", tooltip="Speech or song of any length, rate and number of channels."),
                io.Float.Input("start", default=0.0, min=0.0, max=1e6, step=0.01, tooltip="Seconds to skip at the beginning."),
                io.Float.Input("duration", default=0.0, min=0.0, max=1e6, step=0.01, tooltip="Seconds to use; 0 means to the end."),
                io.Audio.Input(
                    "driving_audio",
                    optional=True,
                    tooltip="What the model hears instead of audio, for example the vocals alone; audio is what the video plays. "
                    "start and duration choose the same part of both.",
                ),
                io.Combo.Input(
                    "normalisation",
                    optional=True,
                    options=list(NORMALISATIONS),
                    default="file",
                    tooltip="file: one level for the whole sound, as the reference. window: by the 10 s around, "
                    "for a voice that is quiet in some places.",
                    advanced=True,
                ),
                io.Float.Input(
                    "loudness",
                    optional=True,
                    default=0.0,
                    min=-60.0,
                    max=0.0,
                    step=0.5,
                    tooltip="Loudness in LUFS to bring the sound to, for example -16; 0 leaves it. Applies to what is heard and to what "
                    "is played: the model hears hardly a difference, the video becomes louder or quieter.",
                ),
                io.Combo.Input(
                    "silence",
                    optional=True,
                    options=list(SILENCES),
                    default="model",
                    tooltip="model: past its end the model hears zeros, as in the reference. rest: it hears real silence there. "
                    "rest in pauses: also in pauses of half a second or more, to calm the mouth.",
                ),
                io.Int.Input(
                    "sync_offset",
                    optional=True,
                    default=0,
                    min=-2000,
                    max=2000,
                    tooltip="Milliseconds by which the mouth moves later than the sound, or earlier if negative. "
                    "A matter of taste: 0 is in step.",
                    advanced=True,
                ),
            ],
            outputs=[WanS2VAudio.Output(display_name="audio", tooltip="What the model hears, with the sound that will be played.")],
        )

    @classmethod
    @checks_inputs
    def execute(
        cls,
        audio_encoder,
        audio,
        start,
        duration,
        driving_audio=None,
        normalisation="file",
        loudness=0.0,
        silence="model",
        sync_offset=0,
    ) -> io.NodeOutput:
        if not hasattr(audio_encoder, "hidden_layers"):
            raise ValueError(
                "This audio encoder is not ours: ComfyUI's own normalises the sound in another way. Use Load Wan S2V Audio Encoder."
            )
        played = heard = select("audio", audio, start, duration, loudness)
        if driving_audio is not None:
            heard = select("driving_audio", driving_audio, start, duration, loudness)
            _compare_lengths(played, heard)
        _warn_if_silent(heard)
        mono = audio_features.to_mono_16khz(*heard)
        num_samples = mono.shape[0] if heard is played else length_at_16khz(played.waveform.shape[1], played.sample_rate_hz)
        waveform = prepare_heard(mono, num_samples, normalisation=normalisation, delay_ms=sync_offset)
        features = _listen(audio_encoder, waveform)
        return io.NodeOutput(EncodedAudio(features, *played, num_samples, _rest(audio_encoder, silence, waveform)))


def _listen(audio_encoder, waveform: torch.Tensor) -> torch.Tensor:
    """Normalised [T] at 16 kHz -> features [layers, channels, frames] at 16 fps."""
    num_rows = audio_features.num_audio_rows(audio_features.num_wav2vec_frames(waveform.shape[0]))
    if num_rows == 0:
        raise ValueError(
            f"The selected sound lasts {waveform.shape[0] / SAMPLE_RATE_HZ:.3f} s as the model hears it; at least 0.05 s is needed. "
            "Choose a longer duration, or a smaller sync_offset."
        )
    num_frames, folder = audio_features.num_audio_frames(num_rows), Path(folder_paths.get_temp_directory())

    def encode() -> torch.Tensor:
        return collect_features(audio_encoder.hidden_layers(waveform), num_frames, folder)

    return comfy_bridge.run_encoder("audio encoding", audio_encoder, encode, MEMORY_ADVICE)


def select(name: str, audio: dict | None, start: float, duration: float, loudness: float = 0.0) -> Sound:
    """Part of the first item of an AUDIO's [B, C, T] waveform, checked, mono or stereo; at the wanted loudness unless that is 0."""
    if audio is None:
        raise ValueError(f"There is no {name}: the video that it comes from has no sound. Connect a sound.")
    waveform, sample_rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.shape[0] > 1:
        logger.warning("%s holds %d sounds; only the first one is used", name, waveform.shape[0])
    whole = waveform[0].float().cpu()
    if whole.numel() == 0:
        raise ValueError(f"The {name} is empty. Connect a sound that lasts at least 0.05 s.")
    first = round(start * sample_rate)
    part = whole[:, first : first + round(duration * sample_rate)] if duration > 0 else whole[:, first:]
    if part.shape[1] == 0:
        raise ValueError(
            f"Nothing is selected: start {start:g} s lies behind the end of the {name} ({whole.shape[1] / sample_rate:.2f} s). "
            "Choose an earlier start."
        )
    low, high = (extreme.item() for extreme in part.aminmax())  # NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"The {name} contains NaN or infinite samples. Load it again or check the node that made it.")
    part = fold_down(part).clone()
    return Sound(part if loudness == 0 else bring_to_loudness(name, part, sample_rate, loudness), sample_rate)


def _warn_if_silent(heard: Sound) -> None:
    if heard.waveform.abs().max() < SILENT_PEAK:
        logger.warning("the selected audio is silent; the mouth will hardly move")


def _compare_lengths(played: Sound, heard: Sound) -> None:
    """Say when the driving track ends earlier or later than the sound that is played, by half a frame or more."""
    missing = played.seconds - heard.seconds
    if missing >= 0.5 / VIDEO_FPS:
        logger.warning("driving_audio ends %.2f s before audio: in the rest the model hears the silence of `silence`", missing)
    elif missing <= -0.5 / VIDEO_FPS:
        logger.info("driving_audio is %.2f s longer than audio: the rest is not heard", -missing)


def _rest(audio_encoder, silence: str, waveform: torch.Tensor) -> Rest | None:
    """What the policy wants to be heard instead of nothing; one short pass of the encoder over digital silence."""
    if silence == "model":
        return None
    features = _listen(audio_encoder, torch.zeros(REST_S * SAMPLE_RATE_HZ))[..., REST_S * VIDEO_FPS // 2].clone()
    return Rest(features, find_pauses(waveform) if silence == "rest in pauses" else frozenset())
