"""wav2vec2 in ComfyUI's memory management."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor, nn

from ..audio.features import normalise, num_wav2vec_frames
from ..audio.wav2vec2 import CONTEXT_FRAMES, WINDOW_FRAMES, hidden_layers, working_bytes
from ..checkpoints.wav2vec2 import load_wav2vec2
from ..constants import WAV2VEC_HZ
from ..media.sound import to_mono_16khz
from .device import obtainable_memory
from .loaders import DTYPES, patcher_class
from .memory import keep_on_gpu
from .runtime import raise_if_interrupted

logger = logging.getLogger("wan_s2v")

PROGRESS_STEPS = 1000
MEMORY_MARGIN = 1.1


class AudioEncoder:
    """wav2vec2 as an AUDIO_ENCODER; also answers to ComfyUI's own AudioEncoderEncode node."""

    def __init__(self, path: str, dtype: str, offload: bool = True):
        self.dtype = DTYPES[dtype]
        # In a shell of its own: the patcher sets `device`, which is a read-only property of transformers' models.
        model = nn.ModuleDict({"wav2vec2": load_wav2vec2(Path(path)).to(self.dtype)})
        self.load_device = comfy.model_management.text_encoder_device()
        offload_device = comfy.model_management.text_encoder_offload_device()
        comfy.model_management.archive_model_dtypes(model)
        self.patcher = patcher_class(not offload)(model, self.load_device, offload_device)
        keep_on_gpu(self.patcher, not offload)

    def hidden_layers(self, waveform: Tensor) -> Iterator[Tensor]:
        """[T] normalised, at 16 kHz -> 25 times [frames, channels] on any device, each valid until the next one is asked for.

        Moves ComfyUI's progress bar and can be cancelled. Each frame hears the whole sound, unless the device cannot hold that.
        """
        model, num_frames = self.patcher.model["wav2vec2"], num_wav2vec_frames(waveform.shape[0])
        context, needed = self._plan_memory(model.config, num_frames)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)
        bar = comfy.utils.ProgressBar(PROGRESS_STEPS)

        def report(share: float) -> None:
            raise_if_interrupted()
            bar.update_absolute(round(share * PROGRESS_STEPS))

        return hidden_layers(model, waveform.to(self.load_device, self.dtype), context, report)

    def _plan_memory(self, config: Any, num_frames: int) -> tuple[int | None, float]:
        """Frames of context around each window, or None if the whole sound fits on the device, and the bytes that are needed there."""
        needed = MEMORY_MARGIN * working_bytes(config, num_frames, self.dtype.itemsize)
        room = obtainable_memory(self.load_device)
        if not comfy.model_management.is_device_cpu(self.load_device):
            room -= self.patcher.model_size()
        if needed <= room or num_frames <= WINDOW_FRAMES:
            return None, needed
        logger.warning(
            "%.0f minutes of sound need %.1f GB on %s, which has %.1f GB: each window of %.0f minutes hears only %.0f more on either side, "
            "so that the features differ slightly from those of the whole sound",
            *(num_frames / WAV2VEC_HZ / 60, needed / 1e9, self.load_device, room / 1e9),
            *(frames / WAV2VEC_HZ / 60 for frames in (WINDOW_FRAMES, CONTEXT_FRAMES)),
        )
        return CONTEXT_FRAMES, MEMORY_MARGIN * working_bytes(config, num_frames, self.dtype.itemsize, CONTEXT_FRAMES)

    def hidden_states(self, waveform: Tensor) -> Tensor:
        """[T] at 16 kHz, as it is -> [25, frames, channels] float32 on the CPU."""
        return torch.stack([layer.float().to("cpu", copy=True) for layer in self.hidden_layers(normalise(waveform))])

    def encode_audio(self, audio: Tensor, sample_rate: int) -> dict[str, Any]:
        """ComfyUI's AUDIO_ENCODER protocol; audio is [B, C, T], of which the first item is used."""
        waveform = to_mono_16khz(audio[0], sample_rate)
        layers = [layer[None] for layer in self.hidden_states(waveform)]
        return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": waveform.shape[0]}
