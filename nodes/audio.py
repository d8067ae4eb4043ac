"""Audio encoding."""

import logging
import math
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..wan_s2v_model import audio_features
from ..wan_s2v_model.audio_features import EncodedAudio
from ..wan_s2v_model.feature_file import collect_features
from .sockets import WanS2VAudio

logger = logging.getLogger("wan_s2v")

SILENCE = 1e-4  # peak amplitude


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
            ],
            outputs=[WanS2VAudio.Output(display_name="audio", tooltip="What the model hears, with the sound that will be played.")],
        )

    @classmethod
    def execute(cls, audio_encoder, audio, start, duration) -> io.NodeOutput:
        if not hasattr(audio_encoder, "hidden_layers"):
            raise ValueError(
                "This audio encoder is not ours: ComfyUI's own normalises the sound in another way. Use Load Wan S2V Audio Encoder."
            )
        sample_rate = int(audio["sample_rate"])
        waveform = select(audio["waveform"], sample_rate, start, duration)
        mono = audio_features.to_mono_16khz(waveform, sample_rate)
        num_rows = audio_features.num_audio_rows(audio_features.num_wav2vec_frames(mono.shape[0]))
        if num_rows == 0:
            raise ValueError(f"The selected sound lasts {waveform.shape[1] / sample_rate:.3f} s; at least 0.05 s is needed.")
        num_frames = audio_features.num_audio_frames(num_rows)
        features = collect_features(audio_encoder.hidden_layers(mono), num_frames, Path(folder_paths.get_temp_directory()))
        return io.NodeOutput(EncodedAudio(features, waveform, sample_rate, mono.shape[0]))


def select(waveform: torch.Tensor, sample_rate: int, start: float, duration: float) -> torch.Tensor:
    """Part of the first item of a [B, C, T] waveform as [C, T'], checked."""
    if waveform.shape[0] > 1:
        logger.warning("the AUDIO holds %d sounds; only the first one is used", waveform.shape[0])
    whole = waveform[0].float().cpu()
    if whole.numel() == 0:
        raise ValueError("The audio is empty. Connect a sound that lasts at least 0.05 s.")
    first = round(start * sample_rate)
    part = whole[:, first : first + round(duration * sample_rate)] if duration > 0 else whole[:, first:]
    if part.shape[1] == 0:
        raise ValueError(
            f"Nothing is selected: start {start:g} s lies behind the end of the audio ({whole.shape[1] / sample_rate:.2f} s). "
            "Choose an earlier start."
        )
    low, high = (extreme.item() for extreme in part.aminmax())  # NaN if there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("The audio contains NaN or infinite samples. Load it again or check the node that made it.")
    if max(-low, high) < SILENCE:
        logger.warning("the selected audio is silent; the mouth will hardly move")
    return part.clone()
