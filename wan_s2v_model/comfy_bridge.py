"""Everything that this pack takes from ComfyUI's internals: loading, memory management, sampling, VAE.

The only module of the package that imports `comfy`. Written against ComfyUI 0.30.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.cli_args
import comfy.context_windows
import comfy.latent_formats
import comfy.ldm.modules.attention as comfy_attention
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.wan
import comfy.utils
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .attention import AttentionFunction, sdpa
from .audio_encoder import load_wav2vec2
from .audio_features import hidden_states, normalise, to_mono_16khz
from .checkpoint import CheckpointError, check_shapes, describe, infer_config, key_prefix, require_s2v
from .conditioning import ClipConditioning
from .constants import DEFAULT_SHIFT, LATENT_CHANNELS, TEMPORAL_STRIDE, TRAIN_TIMESTEPS
from .layers import cast_weights
from .sampler import sample_dpmpp, sample_unipc
from .schedule import SOLVERS, Schedule, build_schedule
from .text_encoder import MAX_TOKENS, clean_prompt, infer_umt5_config
from .transformer import WanS2VTransformer

logger = logging.getLogger("wan_s2v")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = {"official": torch.float32, "fast": None}  # dtype of the residual stream; None: that of the weights
ATTENTIONS = ("auto", "comfyui")
SCHEDULE_KEY = "wan_s2v_schedule"  # in transformer_options: the Schedule whose truncated timesteps the model is told
FAST_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
LATENT_FORMAT = comfy.latent_formats.Wan21()


# --- transformer ---------------------------------------------------------------------------------------------------------------------


class ComfyTransformer(WanS2VTransformer):
    """Our transformer behind the call signature of ComfyUI's Wan models, so that wrappers such as EasyCache find it."""

    def __init__(self, config, precision, attention, *, dtype=None, device=None, operations=None, **_: Any):
        super().__init__(config, operations=operations, dtype=dtype, device=device, residual_dtype=PRECISIONS[precision])
        self.attention_name = attention

    def forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):  # type: ignore[override]
        options = {} if transformer_options is None else transformer_options
        wrappers = comfy.patcher_extension.get_all_wrappers(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options)
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)

    def _forward(self, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
        return run_transformer(self, x, timestep, context, transformer_options, self.attention_name, **kwargs)


def run_transformer(
    transformer: WanS2VTransformer,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    transformer_options: dict[str, Any],
    attention_name: str = "auto",
    *,
    audio_embed: Tensor | None = None,
    reference_latent: Tensor | None = None,
    reference_motion: Tensor | None = None,
    control_video: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Call the transformer with the conditioning names that ComfyUI's own S2V nodes use."""
    if reference_latent is None:
        raise ValueError("Wan S2V got no reference picture. Sample with WanS2VSampler, or add the conditioning of WanSoundImageToVideo.")
    return WanS2VTransformer.forward(
        transformer,
        x,
        _told_timestep(timestep, transformer_options.get(SCHEDULE_KEY)),
        context,
        audio_embedding=audio_embed,
        ref_latents=reference_latent,
        motion_latents=reference_motion,
        pose_latents=control_video,
        attention=pick_attention(attention_name, x.device),
        transformer_options=transformer_options,
        cast=cast_comfy_weights,
    )


def _told_timestep(timestep: Tensor, schedule: Schedule | None) -> Tensor:
    """The reference tells the model the truncated timestep of the step, not 1000 * sigma."""
    if schedule is None:
        return timestep
    sigmas, timesteps = (t.to(timestep.device) for t in (schedule.sigmas, schedule.timesteps))
    step = (sigmas[:-1] * TRAIN_TIMESTEPS - timestep[:, None]).abs().argmin(dim=1)
    return timesteps[step]


@contextmanager
def cast_comfy_weights(layer: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias of a ComfyUI layer on the device and in the dtype of x, LoRA applied, wherever they are stored."""
    if not hasattr(layer, "comfy_cast_weights"):
        with cast_weights(layer, x) as plain:
            yield plain
        return
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    try:
        yield weight, bias
    finally:
        comfy.ops.uncast_bias_weight(layer, weight, bias, stream)


@comfy_attention.wrap_attn
def _cudnn_first(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
    with sdpa_kernel(FAST_KERNELS, set_priority=True):
        return sdpa(q, k, v, heads)


def pick_attention(name: str, device: torch.device) -> AttentionFunction:
    """`auto` puts cuDNN before flash on NVIDIA Hopper and newer when ComfyUI uses PyTorch's attention; else ComfyUI's choice."""
    uses_pytorch = comfy_attention.optimized_attention is comfy_attention.attention_pytorch
    if name == "auto" and uses_pytorch and device.type == "cuda" and comfy.model_management.is_nvidia():
        if torch.cuda.get_device_capability(device) >= (9, 0):
            return _cudnn_first
    return comfy_attention.optimized_attention


# --- loading -------------------------------------------------------------------------------------------------------------------------


class S2VModel(comfy.model_base.WAN22_S2V):
    """ComfyUI's model around our transformer; conditioning names stay those of its own S2V nodes."""

    def __init__(self, model_config, device=None):
        comfy.model_base.BaseModel.__init__(self, model_config, comfy.model_base.ModelType.FLOW, device=device, unet_model=ComfyTransformer)
        self.memory_usage_factor_conds = ("reference_latent", "reference_motion")
        self.memory_usage_shape_process = {"reference_motion": lambda shape: [shape[0], shape[1], 1.5, shape[-2], shape[-1]]}

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=None):
        if cond_key == "audio_embed":
            scale = {"temporal_dim": 3, "temporal_scale": TEMPORAL_STRIDE}
            return comfy.context_windows.slice_cond(cond_value, window, x_in, device, **scale)
        if cond_key == "control_video":
            return comfy.context_windows.slice_cond(cond_value, window, x_in, device, temporal_dim=2)
        return super(comfy.model_base.WAN22_S2V, self).resize_cond_for_context_window(
            cond_key, cond_value, window, x_in, device, retain_index_list=retain_index_list or []
        )


class S2VModelConfig(comfy.supported_models.WAN22_S2V):
    """Not registered with ComfyUI, so that its own loaders behave as before."""

    sampling_settings = {"shift": DEFAULT_SHIFT}  # noqa: RUF012
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # noqa: RUF012

    def get_model(self, state_dict, prefix="", device=None):
        return S2VModel(self, device=device)


def load_diffusion_model(path: str, options: Mapping[str, str], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """Load a Wan S2V transformer as a ComfyUI MODEL.

    Args:
        options: `weight_dtype` (default, fp32, fp16, bf16), `precision` (official, fast) and `attention` (auto, comfyui).
        disable_dynamic: ComfyUI asks for a copy without dynamic VRAM this way (torch.compile, hooks, several GPUs).
    Raises:
        CheckpointError: if the file is not a complete Wan S2V transformer.
    """
    name = Path(path).name
    state_dict, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
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


def with_s2v_forward(model: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """A clone of any MODEL that holds Wan S2V weights, running our forward on them.

    A model of our loader runs it already; for ComfyUI's own S2V model (UNETLoader, GGUF) our transformer shares its layers.
    """
    model = model.clone()
    native = model.model.diffusion_model
    if isinstance(native, ComfyTransformer):
        return model
    shapes = {name: tuple(tensor.shape) for name, tensor in native.state_dict().items()}
    require_s2v(list(shapes), "The connected MODEL")
    config = infer_config(shapes, inject_layers=tuple(native.audio_injector.injected_block_id))
    transformer = WanS2VTransformer(config, device="meta")
    _share_layers(transformer, native)

    def forward(x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=None, **kwargs):
        return run_transformer(transformer, x, timestep, context, transformer_options or {}, **kwargs)

    model.add_object_patch("diffusion_model._forward", forward)
    return model


def _share_layers(transformer: nn.Module, native: nn.Module) -> None:
    """Replace every parameter-holding module of our transformer by the native one of the same name."""
    for path, module in list(transformer.named_modules()):
        if not module._parameters:
            continue
        twin = native.get_submodule(path)
        if next(module.children(), None) is None:
            parent, _, name = path.rpartition(".")
            transformer.get_submodule(parent)._modules[name] = twin
        else:
            for name in module._parameters:
                module._parameters[name] = twin._parameters[name]


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
    state_dict, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
    state_dict, _ = comfy.utils.convert_old_quants(state_dict, model_prefix="", metadata=metadata)
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


def encode_prompt(clip: comfy.sd.CLIP, prompt: str) -> list:
    """Encode a prompt as CONDITIONING: cleaned, cut to 512 tokens with the end token, without (word:1.2) weights."""
    tokens = clip.tokenize(clean_prompt(prompt), disable_weights=True)
    for batches in tokens.values():
        joined = [token for batch in batches for token in batch]
        if len(joined) > MAX_TOKENS:
            logger.warning("the prompt has %d tokens; only the first %d are used", len(joined), MAX_TOKENS)
            batches[:] = [[*joined[: MAX_TOKENS - 1], joined[-1]]]
    return clip.encode_from_tokens_scheduled(tokens)


def load_vae(path: str, dtype: str) -> comfy.sd.VAE:
    """Load a Wan2.1 VAE.

    Raises:
        CheckpointError: if the file is something else or incomplete.
    """
    name = Path(path).name
    state_dict, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    is_wan21 = "decoder.middle.0.residual.0.gamma" in state_dict and "decoder.upsamples.0.upsamples.0.residual.2.weight" not in state_dict
    if not is_wan21:
        raise CheckpointError(
            f"{name} is not the Wan2.1 VAE: it looks like {describe(set(state_dict))}. Pick wan_2.1_vae.safetensors or Wan2.1_VAE.pth in models/vae."
        )
    vae = comfy.sd.VAE(sd=dict(state_dict), dtype=DTYPES[dtype], metadata=metadata)
    missing = vae.first_stage_model.state_dict().keys() - state_dict.keys()
    if missing:
        raise CheckpointError(f"{name}: {len(missing)} tensors are missing ({', '.join(sorted(missing)[:3])}). Download the file again.")
    return vae


class AudioEncoder:
    """wav2vec2 in ComfyUI's memory management; also answers to ComfyUI's own AudioEncoderEncode node."""

    def __init__(self, path: str, dtype: str):
        self.name = Path(path).name
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


# --- VAE -----------------------------------------------------------------------------------------------------------------------------


def require_wan_vae(vae: comfy.sd.VAE) -> None:
    """Raise ValueError unless the VAE is Wan2.1's."""
    channels, dimensions = getattr(vae, "latent_channels", None), getattr(vae, "latent_dim", None)
    if channels != LATENT_CHANNELS or dimensions != 3:
        raise ValueError(f"Wan S2V needs the Wan2.1 VAE (16 channels, video); the connected one has {channels} channels. Load wan_2.1_vae.safetensors.")


def encode_pixels(vae: comfy.sd.VAE, frames: Tensor) -> Tensor:
    """[T, H, W, 3] in [0, 1] -> [1, 16, F, h, w] normalised latents, float32 on the CPU."""
    raise_if_interrupted()
    return LATENT_FORMAT.process_in(vae.encode(frames).float().cpu())


def decode_latents(vae: comfy.sd.VAE, latents: Tensor) -> Tensor:
    """[1, 16, F, h, w] normalised latents -> [4F - 3, H, W, 3] in [0, 1], float32 on the CPU."""
    raise_if_interrupted()
    return vae.decode(LATENT_FORMAT.process_out(latents))[0].float().cpu()


# --- sampling ------------------------------------------------------------------------------------------------------------------------

SAMPLER_NAMES = (*SOLVERS, *(name for name in comfy.samplers.SAMPLER_NAMES if name not in SOLVERS))


class FlowSolver(comfy.samplers.Sampler):
    """A solver of the reference as a ComfyUI SAMPLER; unlike ComfyUI's own it starts from unscaled noise."""

    def __init__(self, function: Callable[..., Tensor], state_dtype: torch.dtype | None):
        self.function = function
        self.state_dtype = state_dtype

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
        def report(step: dict[str, Any]) -> None:
            if callback is not None:
                callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1)

        return self.function(model_wrap, noise, sigmas, extra_args=extra_args, callback=report, state_dtype=self.state_dtype)


@dataclass(frozen=True)
class SamplerSettings:
    """How every clip is sampled.

    Attributes:
        solver: one of SAMPLER_NAMES, unless `sampler` (a ComfyUI SAMPLER) is given. sigmas: used instead of steps and shift.
        round_state: keep the sample in the model's dtype between UniPC steps, as the reference does.
    """

    steps: int
    cfg: float
    shift: float
    solver: str
    sampler: comfy.samplers.Sampler | None = None
    sigmas: Tensor | None = None
    round_state: bool = False


class ClipSampler:
    """Samples clips with a MODEL that holds Wan S2V weights, through ComfyUI's guider."""

    def __init__(self, model, positive, negative, settings: SamplerSettings, seed: int):
        self.model = with_s2v_forward(model)
        self.conditions = positive, negative
        self.settings = settings
        self.seed = seed
        self.on_step: Callable[[int, Tensor], None] = lambda done, x0: None
        self.sampler, self.sigmas, schedule = _solver(self.model, settings)
        if schedule is not None:
            self.model.model_options["transformer_options"][SCHEDULE_KEY] = schedule

    @property
    def num_steps(self) -> int:
        return len(self.sigmas) - 1

    def report_to(self, total_steps: int) -> None:
        """Show progress and previews in ComfyUI's bar of that many steps."""
        self.on_step = step_reporter(self.model, total_steps)

    def __call__(self, clip: int, conditioning: ClipConditioning, noise: Tensor) -> Tensor:
        """Sample one clip: [1, 16, F, h, w] noise -> normalised latents, float32 on the CPU."""
        guider = comfy.samplers.CFGGuider(self.model)
        guider.set_conds(*_conditions(*self.conditions, conditioning))
        guider.set_cfg(max(1.0, self.settings.cfg))
        latents = guider.sample(
            noise,
            torch.zeros_like(noise),
            self.sampler,
            self.sigmas,
            callback=lambda step, x0, x, total: self.on_step(clip * total + step + 1, x0),
            disable_pbar=True,
            seed=self.seed + clip,
        )
        comfy.model_management.reset_cast_buffers()
        return LATENT_FORMAT.process_in(latents.float().cpu())


def _solver(model, settings: SamplerSettings) -> tuple[comfy.samplers.Sampler, Tensor, Schedule | None]:
    """SAMPLER, sigmas and, for the reference's solvers, the schedule with its truncated timesteps."""
    shift = settings.shift
    if "model_sampling" in model.object_patches:
        shift = model.get_model_object("model_sampling").shift
        logger.info("shift %s comes from the MODEL (ModelSamplingSD3), not from the sampler's input", shift)
    schedule = build_schedule(settings.solver, settings.steps, shift)
    sigmas = schedule.sigmas if settings.sigmas is None else settings.sigmas.float().cpu()
    told = None if settings.sampler is not None or settings.sigmas is not None or settings.solver not in SOLVERS else schedule
    if settings.sampler is not None:
        return settings.sampler, sigmas, told
    if settings.solver not in SOLVERS:
        return comfy.samplers.sampler_object(settings.solver), sigmas, told
    state_dtype = model.model.get_dtype_inference() if settings.round_state else None
    return FlowSolver(sample_unipc if settings.solver == "unipc" else sample_dpmpp, state_dtype), sigmas, told


def _conditions(positive, negative, clip: ClipConditioning) -> tuple[list, list]:
    """Add a clip to both CONDITIONINGs, with ComfyUI's names and its unnormalised latents; the negative one hears nothing."""
    values: dict[str, Any] = {"reference_latents": [LATENT_FORMAT.process_out(clip.ref_latents)]}
    for name, latents in (("reference_motion", clip.motion_latents), ("control_video", clip.pose_latents)):
        if latents is not None:
            values[name] = LATENT_FORMAT.process_out(latents)
    audio = clip.audio_embedding
    return tuple(
        [[tensor, {**options, **values, "audio_embed": heard}] for tensor, options in conditioning]
        for conditioning, heard in ((positive, audio), (negative, torch.zeros_like(audio)))
    )


def step_reporter(model, total: int) -> Callable[[int, Tensor], None]:
    """A callback (steps done, predicted latents) that moves ComfyUI's progress bar and shows its latent preview."""
    import latent_preview  # a module of ComfyUI's root, not of `comfy`

    previewer = latent_preview.get_previewer(model.load_device, LATENT_FORMAT)
    bar = comfy.utils.ProgressBar(total)

    def report(done: int, x0: Tensor) -> None:
        preview = None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", x0)
        bar.update_absolute(done, total, preview)

    return report


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt (a BaseException) when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def metadata_enabled() -> bool:
    """Whether the user lets ComfyUI write workflows into files."""
    return not comfy.cli_args.args.disable_metadata


def free_host_memory() -> int:
    """Bytes of main memory that are free."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))


def model_identity(model) -> dict[str, str]:
    """What tells two MODELs apart: the file it came from, and a digest of its LoRA keys and strengths."""
    factory = model.cached_patcher_init
    path = Path(factory[1][0]) if factory is not None else None
    file = f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" if path is not None and path.is_file() else "unknown"
    strengths = sorted((str(key), [patch[0] for patch in patches]) for key, patches in model.patches.items())
    return {"model": file, "loras": hashlib.sha256(repr(strengths).encode()).hexdigest()[:16]}
