"""Loads the models into ComfyUI's memory management, and LoRA files onto a MODEL, through its patches."""

import functools
import inspect
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.ldm.wan.vae
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.quant_ops
import comfy.sd
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.wan
import comfy.utils
import torch
from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
from torch import Tensor, nn

from ..audio.features import normalise, num_wav2vec_frames
from ..audio.wav2vec2 import CONTEXT_FRAMES, WINDOW_FRAMES, hidden_layers, working_bytes
from ..checkpoints.file_format import AGAIN_OR_OTHER, INDEX_SUFFIX, CheckpointError
from ..checkpoints.identify import S2V, TOKENIZER, UMT5, WAN_VAE, Shapes, require, unwrap
from ..checkpoints.lora import read_lora
from ..checkpoints.lora_settings import read_settings
from ..checkpoints.quantisation import fit_marks, holds, is_quantisation, logical_shapes
from ..checkpoints.s2v import check_shapes, expected_shapes, infer_config
from ..checkpoints.shapes import require_dimensions, require_fit
from ..checkpoints.shards import shard_files
from ..checkpoints.umt5 import infer_umt5_config, to_comfyui
from ..checkpoints.wav2vec2 import load_wav2vec2
from ..checkpoints.weights_file import reading, require_floats, require_tensors
from ..constants import LATENT_CHANNELS, WAV2VEC_HZ
from ..kernels.self_test import passes
from ..media.sound import to_mono_16khz
from ..transformer.config import WanS2VConfig
from ..untrusted import MOST_JSON_BYTES, read_plain
from .device import obtainable_memory
from .memory import keep_on_gpu
from .model import S2VModelConfig, s2v_config
from .patches import ROOT, mark_for_live, patch_raw_parameters
from .runtime import raise_if_interrupted

logger = logging.getLogger("wan_s2v")
SPARE_ROWS = 512  # more than any umT5 has behind the words of its tokenizer
VAE_WIDTH = "decoder.head.0.gamma"
FLOAT8 = comfy.model_management.FLOAT8_TYPES
OTHER_TYPES = "Load wan2.2_s2v_14B_bf16.safetensors instead, or a GGUF file with a GGUF loader."
OTHER_TEXT_TYPES = "Load umt5_xxl_fp16.safetensors instead."
PROGRESS_STEPS = 1000  # of wav2vec2
MEMORY_MARGIN = 1.1
INT8 = "int8_tensorwise"
NO_INT8 = (
    "whose products do not run on this device, or are wrong there; the log says why. They need NVIDIA GeForce 20 or newer. "
    "Pick the bf16, fp16 or fp8_scaled file."
)
INT8_TOLERANCE = 0.05  # relative, of rounded inputs and weights
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_diffusion_model(
    path: str, options: Mapping[str, str], disable_dynamic: bool = False, offload: bool = True
) -> comfy.model_patcher.ModelPatcher:
    """Load a Wan S2V transformer as a ComfyUI MODEL.

    Args:
        options: `weight_dtype` (default, fp32, fp16, bf16), `precision` (official, fast), `attention` (one of ATTENTIONS)
            and, unless exact, `speed` (one of SPEEDS).
        disable_dynamic: ComfyUI asks for a copy without dynamic VRAM this way (torch.compile, hooks, several GPUs).
        offload: False keeps all weights on the GPU once they are there.
    Raises:
        CheckpointError: if the file is not a complete Wan S2V transformer, or in int8 where that does not run.
    """
    device = comfy.model_management.get_torch_device()
    state_dict, config = read_transformer(path)
    _require_types_of(device, state_dict, Path(path).name, OTHER_TYPES)
    keys = {"image_model": "wan2.1", "model_type": "s2v", "dim": config.dim, "config": config}
    model_config = S2VModelConfig({**keys, **{name: value for name, value in options.items() if name != "weight_dtype"}})
    model_config.quant_config = comfy.utils.detect_layer_quantization(state_dict, "")
    if holds(state_dict, INT8) and not int8_works(device):
        raise CheckpointError(f"{Path(path).name} is stored in int8, {NO_INT8}")
    _set_dtypes(model_config, state_dict, options["weight_dtype"], device)
    model = model_config.get_model(state_dict)
    patcher = patcher_class(disable_dynamic or not offload)(model, device, comfy.model_management.unet_offload_device())
    keep_on_gpu(patcher, not offload)
    model.load_model_weights(state_dict, "", assign=patcher.is_dynamic())
    patcher.cached_patcher_init = (functools.partial(load_diffusion_model, offload=offload), (path, dict(options)))
    return patcher


@functools.cache
def int8_works(device: torch.device) -> bool:
    """Whether ComfyUI's products of 8-bit integers run on a device and are right; found out once, a failure is logged."""
    return passes(
        lambda: _int8_disagreement(device),
        INT8_TOLERANCE,
        fails="int8: its products do not run here (%s)",
        differs="int8: its products are wrong by %.1e here",
    )


def _int8_disagreement(device: torch.device) -> float:
    """The relative difference of a small int8 product, with rotated inputs, to the exact one."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 256, generator=generator) for rows in (40, 64))
    options = {"per_channel": True, "convrot": True, "convrot_groupsize": 256}
    packed = comfy.quant_ops.QuantizedTensor.from_float(weight, "TensorWiseINT8Layout", **options)
    ours, exact = torch.nn.functional.linear(x.to(device), packed.to(device)).cpu(), x @ weight.T
    return float((ours - exact).norm() / exact.norm())


def read_transformer(path: str) -> tuple[dict[str, Tensor], WanS2VConfig]:
    """Tensors and configuration of a Wan S2V transformer, complete and in the shapes that it needs.

    Raises:
        CheckpointError: if the file is something else or incomplete.
    """
    name = Path(path).name
    contents, metadata = _read_model(path)
    require(S2V, _shapes(contents), name)
    state_dict = _unwrapped(contents, metadata, name)
    shapes = logical_shapes(state_dict)
    config = infer_config(shapes, metadata, file_name=name)
    check_shapes(shapes, config, name)
    return state_dict, config


def patcher_class(disable_dynamic: bool) -> type[comfy.model_patcher.ModelPatcher]:
    """ComfyUI's memory management as it was started, or the one that moves whole models."""
    return comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher


def read_weights(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata of a weights file."""
    with reading(Path(path)):
        contents, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    return require_tensors(contents, Path(path)), metadata


def _shapes(state_dict: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def _read_model(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata of a single file, or of all shards that an index lists."""
    return _read_shards(Path(path)) if path.endswith(INDEX_SUFFIX) else read_weights(path)


def _read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors of a folder of shards, and its config.json in the form of a single file's metadata."""
    state_dict: dict[str, Tensor] = {}
    for shard in shard_files(index):
        state_dict |= read_weights(str(shard))[0]
    config = index.parent / "config.json"
    text = read_plain(config, MOST_JSON_BYTES, through_links=True).decode(errors="replace") if config.is_file() else "{}"
    return state_dict, {"config": f'{{"transformer": {text}}}'}


def _unwrapped(state_dict: dict[str, Tensor], metadata: dict[str, str] | None, file_name: str) -> dict[str, Tensor]:
    """The tensors under the model's names, each quantised layer with its mark (`comfy_quant`) beside it."""
    bare = unwrap(_with_marks(state_dict, metadata, file_name), file_name)  # marks in the header have the prefix too
    require_floats(bare, file_name, packed=True)
    return fit_marks(_with_marks(bare, None, file_name), comfy.quant_ops.QUANT_ALGOS, file_name)


def _with_marks(state_dict: dict[str, Tensor], metadata: Mapping[str, str] | None, file_name: str) -> dict[str, Tensor]:
    """The tensors with a mark for each quantised layer, also where the file says so in its header or in an older way."""
    try:
        return comfy.utils.convert_old_quants(state_dict, "", metadata=metadata)[0]
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{file_name}: its description of quantised weights cannot be read. {AGAIN_OR_OTHER}") from error


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
    takes_device = "device" in inspect.signature(model_config.set_inference_dtype).parameters  # since ComfyUI 0.27
    model_config.set_inference_dtype(dtype, cast, **({"device": device} if takes_device else {}))


def _require_types_of(device: torch.device, tensors: Mapping[str, Tensor], file_name: str, advice: str) -> None:
    """Raise CheckpointError if weights have a type that the device cannot even hold; ComfyUI would fail when it samples."""
    if comfy.model_management.is_device_mps(device) and any(tensor.dtype in FLOAT8 for tensor in tensors.values()):
        raise CheckpointError(f"{file_name} holds weights in 8-bit floats (fp8), which Apple's GPUs do not have. {advice}")


def load_text_encoder(path: str, offload: bool = True) -> comfy.sd.CLIP:
    """Load a umT5 encoder of any size as a ComfyUI CLIP.

    Raises:
        CheckpointError: if the file is not a complete umT5 encoder.
    """
    clip = _load_clip(path, disable_dynamic=not offload)
    keep_on_gpu(clip.patcher, not offload)
    clip.patcher.cached_patcher_init = (functools.partial(_load_clip_patcher, offload=offload), (path,))
    return clip


def _load_clip_patcher(path: str, disable_dynamic: bool = False, offload: bool = True) -> comfy.model_patcher.ModelPatcher:
    patcher = _load_clip(path, disable_dynamic or not offload).patcher
    keep_on_gpu(patcher, not offload)
    return patcher


def _load_clip(path: str, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    state_dict, dimensions = read_text_encoder(path)
    _require_types_of(comfy.model_management.text_encoder_device(), state_dict, Path(path).name, OTHER_TEXT_TYPES)
    _require_tokenizer(state_dict[TOKENIZER], dimensions["vocab_size"], Path(path).name)
    detected = comfy.text_encoders.sd3_clip.t5_xxl_detect(state_dict)
    target = SimpleNamespace(params={}, clip=comfy.text_encoders.wan.te(**detected), tokenizer=comfy.text_encoders.wan.WanT5Tokenizer)
    return comfy.sd.CLIP(
        target,
        tokenizer_data={TOKENIZER: state_dict[TOKENIZER]},
        parameters=comfy.utils.calculate_parameters(state_dict),
        state_dict=[state_dict],
        model_options={"umt5xxl_model_config": dimensions},
        disable_dynamic=disable_dynamic,
    )


def read_text_encoder(path: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Tensors of a umT5 encoder under ComfyUI's names, with a tokenizer, and its dimensions.

    Raises:
        CheckpointError: if the file is something else or incomplete.
    """
    name = Path(path).name
    contents, metadata = _read_model(path)
    require(UMT5, _shapes(contents), name)
    state_dict = to_comfyui(_unwrapped(contents, metadata, name), Path(path))
    return state_dict, infer_umt5_config(logical_shapes(state_dict), name)


def _require_tokenizer(model: Tensor, vocabulary_size: int, file_name: str) -> None:
    advice = "Use spiece.model of google/umt5-xxl, or pick ComfyUI's umt5_xxl_fp16.safetensors, which brings it."
    try:
        if not model.numel():
            raise ValueError("it is empty")
        pieces = SPieceTokenizer(model).tokenizer.get_piece_size()
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{file_name}: its tokenizer cannot be read. {advice}") from error
    if not 0 <= vocabulary_size - pieces <= SPARE_ROWS:
        raise CheckpointError(f"{file_name} knows {vocabulary_size:,} words and its tokenizer {pieces:,}: it is another model's. {advice}")


def load_vae(path: str, dtype: str, offload: bool = True) -> comfy.sd.VAE:
    """Load a Wan2.1 VAE.

    Raises:
        CheckpointError: if the file is something else or incomplete.
    """
    state_dict, metadata = read_vae(path)
    vae = comfy.sd.VAE(sd=dict(state_dict), dtype=DTYPES[dtype], metadata=metadata)
    if not offload:
        vae.disable_offload = True
        vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, vae.device, vae.patcher.offload_device)
        keep_on_gpu(vae.patcher, True)
    vae.patcher.cached_patcher_init = (functools.partial(_load_vae_patcher, offload=offload), (path, dtype))
    return vae


def _load_vae_patcher(path: str, dtype: str, disable_dynamic: bool = False, offload: bool = True) -> comfy.model_patcher.ModelPatcher:
    """`disable_dynamic` is ComfyUI's wish for patches in place, which a VAE never has."""
    return load_vae(path, dtype, offload).patcher


def read_vae(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors of a Wan2.1 VAE, complete and in the shapes that it needs, and the metadata of the file.

    Raises:
        CheckpointError: if the file is something else or incomplete.
    """
    name = Path(path).name
    contents, metadata = read_weights(path)
    require(WAN_VAE, _shapes(contents), name)
    state_dict = unwrap(contents, name)
    require_floats(state_dict, name, packed=True)
    if any(map(is_quantisation, state_dict)):
        raise CheckpointError(f"{name} holds quantised weights, which no VAE loader reads. {WAN_VAE.advice}")
    require_dimensions(_shapes(state_dict), {VAE_WIDTH: 4}, name)
    require_fit(_shapes(state_dict), vae_shapes(state_dict[VAE_WIDTH].shape[0]), "the Wan2.1 VAE", name)
    return state_dict, metadata


def vae_shapes(width: int) -> Shapes:
    """Name and shape of every tensor of a Wan2.1 VAE, from ComfyUI's class without memory behind it."""
    blocks = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    with torch.device("meta"):
        return _shapes(comfy.ldm.wan.vae.WanVAE(dim=width, z_dim=LATENT_CHANNELS, **blocks).state_dict())


def apply_lora(model: comfy.model_patcher.ModelPatcher, path: str, strength: float) -> tuple[comfy.model_patcher.ModelPatcher, str]:
    """A clone of a MODEL with Wan S2V weights that a LoRA changes, and the report of what of the file fits.

    Raises:
        CheckpointError: if the file is no LoRA or nothing of it fits, or the MODEL holds no Wan S2V weights.
    """
    config = s2v_config(model.model.diffusion_model)
    tensors, metadata = read_weights(path)
    lora = read_lora(tensors, expected_shapes(config), Path(path).name, read_settings(Path(path), metadata))
    logger.info("LoRA %s, strength %g", lora.summary, strength)
    for line in lora.noted_alphas():
        logger.info("LoRA %s: %s", lora.name, line)
    for line in lora.warnings():
        logger.warning("LoRA %s", line)
    model = model.clone()
    if strength:
        targets = {module: ROOT + tensor for module, tensor in lora.targets.items()}
        model.add_patches(comfy.lora.load_lora(lora.tensors, targets, log_missing=False), strength)
        patch_raw_parameters(model)
        if lora.is_live_avatar:
            mark_for_live(model)
    return model, lora.report()


class AudioEncoder:
    """wav2vec2 as an AUDIO_ENCODER; also answers to ComfyUI's own AudioEncoderEncode node."""

    def __init__(self, path: str, dtype: str, offload: bool = True):
        self.file, self.dtype = Path(path), DTYPES[dtype]
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
