"""Loads the four models into ComfyUI's memory management."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.wan
import comfy.utils
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..audio_encoder import load_wav2vec2
from ..audio_features import hidden_states, normalise, to_mono_16khz
from ..checkpoint import INDEX_SUFFIX, CheckpointError, check_shapes, describe, infer_config, key_prefix, require_s2v, shard_files
from ..text_encoder import from_official, infer_umt5_config
from .model import S2VModelConfig

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
READ_ERRORS = (SafetensorError, pickle.UnpicklingError, struct.error, EOFError, KeyError, OSError, RuntimeError, ValueError)


def load_diffusion_model(path: str, options: Mapping[str, str], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """Load a Wan S2V transformer as a ComfyUI MODEL.

    Args:
        options: `weight_dtype` (default, fp32, fp16, bf16), `precision` (official, fast) and `attention` (auto, comfyui).
        disable_dynamic: ComfyUI asks for a copy without dynamic VRAM this way (torch.compile, hooks, several GPUs).
    Raises:
        CheckpointError: if the file is not a complete Wan S2V transformer.
    """
    name = Path(path).name
    state_dict, metadata = _read_shards(Path(path)) if path.endswith(INDEX_SUFFIX) else _read(path)
    state_dict, metadata = comfy.utils.convert_old_quants(state_dict, "", metadata=metadata)
    prefix = key_prefix(list(state_dict))
    state_dict = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()}
    require_s2v(list(state_dict), name)
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    config = infer_config(shapes, metadata)
    check_shapes(shapes, config, name)

    keys = {"image_model": "wan2.1", "model_type": "s2v", "dim": config.dim, "config": config}
    model_config = S2VModelConfig({**keys, "precision": options["precision"], "attention": options["attention"]})
    model_config.quant_config = comfy.utils.detect_layer_quantization(state_dict, "")
    device = comfy.model_management.get_torch_device()
    _set_dtypes(model_config, state_dict, options["weight_dtype"], device)
    model = model_config.get_model(state_dict)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    model.load_model_weights(state_dict, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (load_diffusion_model, (path, dict(options)))
    return patcher


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata of a weights file."""
    try:
        return comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    except READ_ERRORS as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{Path(path).name} is damaged or holds no weights ({reason}). Download the file again.") from error


def _read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors of the official folder, and its config.json in the form of a single file's metadata."""
    state_dict: dict[str, Tensor] = {}
    for shard in shard_files(index):
        state_dict |= _read(str(shard))[0]
    config = index.parent / "config.json"
    return state_dict, {"config": f'{{"transformer": {config.read_text()}}}'} if config.is_file() else None


def _set_dtypes(model_config: S2VModelConfig, state_dict: dict[str, Tensor], weight_dtype: str, device: torch.device) -> None:
    supported = model_config.supported_inference_dtypes
    if model_config.quant_config is not None:
        dtype = comfy.model_management.unet_dtype(supported_dtypes=supported)
        cast = comfy.model_management.unet_manual_cast(None, device, supported)
    else:
        parameters = comfy.utils.calculate_parameters(state_dict)
        stored = comfy.utils.weight_dtype(state_dict)
        chosen = comfy.model_management.unet_dtype(model_params=parameters, supported_dtypes=supported, weight_dtype=stored)
        dtype = DTYPES.get(weight_dtype, chosen)
        cast = comfy.model_management.unet_manual_cast(dtype, device, supported)
    model_config.set_inference_dtype(dtype, cast, device=device)


def load_text_encoder(path: str) -> comfy.sd.CLIP:
    """Load a umT5 encoder of any size as a ComfyUI CLIP.

    Raises:
        CheckpointError: if the file is not a complete umT5 encoder.
    """
    clip = _load_clip(path)
    clip.patcher.cached_patcher_init = (_load_clip_patcher, (path,))
    return clip


def _load_clip_patcher(path: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return _load_clip(path, disable_dynamic).patcher


def _load_clip(path: str, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    state_dict, metadata = _read(path)
    state_dict, _ = comfy.utils.convert_old_quants(from_official(state_dict, Path(path)), model_prefix="", metadata=metadata)
    dimensions = infer_umt5_config({name: tuple(tensor.shape) for name, tensor in state_dict.items()}, Path(path).name)
    detected = comfy.text_encoders.sd3_clip.t5_xxl_detect(state_dict)
    target = SimpleNamespace(params={}, clip=comfy.text_encoders.wan.te(**detected), tokenizer=comfy.text_encoders.wan.WanT5Tokenizer)
    return comfy.sd.CLIP(
        target,
        tokenizer_data={"spiece_model": state_dict["spiece_model"]},
        parameters=comfy.utils.calculate_parameters(state_dict),
        state_dict=[state_dict],
        model_options={"umt5xxl_model_config": dimensions},
        disable_dynamic=disable_dynamic,
    )


def load_vae(path: str, dtype: str) -> comfy.sd.VAE:
    """Load a Wan2.1 VAE.

    Raises:
        CheckpointError: if the file is something else or incomplete.
    """
    name = Path(path).name
    state_dict, metadata = _read(path)
    is_wan21 = "decoder.middle.0.residual.0.gamma" in state_dict and "decoder.upsamples.0.upsamples.0.residual.2.weight" not in state_dict
    if not is_wan21:
        raise CheckpointError(
            f"{name} is not the Wan2.1 VAE: it looks like {describe(set(state_dict))}. "
            "Pick wan_2.1_vae.safetensors or Wan2.1_VAE.pth in models/vae."
        )
    vae = comfy.sd.VAE(sd=dict(state_dict), dtype=DTYPES[dtype], metadata=metadata)
    missing = vae.first_stage_model.state_dict().keys() - state_dict.keys()
    if missing:
        raise CheckpointError(f"{name}: {len(missing)} tensors are missing ({', '.join(sorted(missing)[:3])}). Download the file again.")
    return vae


class AudioEncoder:
    """wav2vec2 in ComfyUI's memory management; also answers to ComfyUI's own AudioEncoderEncode node."""

    def __init__(self, path: str, dtype: str):
        self.dtype = DTYPES[dtype]
        # In a shell of its own: the patcher sets `device`, which is a read-only property of transformers' models.
        model = nn.ModuleDict({"wav2vec2": load_wav2vec2(Path(path)).to(self.dtype)})
        self.load_device = comfy.model_management.text_encoder_device()
        offload_device = comfy.model_management.text_encoder_offload_device()
        comfy.model_management.archive_model_dtypes(model)
        self.patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=self.load_device, offload_device=offload_device)

    def hidden_states(self, waveform: Tensor) -> Tensor:
        """[T] at 16 kHz -> [25, frames, channels] float32 on the CPU."""
        comfy.model_management.load_models_gpu([self.patcher])
        return hidden_states(self.patcher.model["wav2vec2"], normalise(waveform).to(self.load_device, self.dtype)).float().cpu()

    def encode_audio(self, audio: Tensor, sample_rate: int) -> dict[str, Any]:
        """ComfyUI's AUDIO_ENCODER protocol; audio is [B, C, T], of which the first item is used."""
        waveform = to_mono_16khz(audio[0], sample_rate)
        layers = [layer[None] for layer in self.hidden_states(waveform)]
        return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "audio_samples": waveform.shape[0]}
