"""The only door to ComfyUI's internals: change here how they are called, for no other room imports `comfy`."""

from .device import assumed_facts, device_facts, model_facts, place_rings, require_memory, vae_value_bytes
from .display import file_shower, share_reporter, show_computation, text_display
from .gpus import ONE_GPU, GpusAhead, gpus_ahead
from .kernels import ATTENTIONS, SPEEDS, require_attention
from .live import LiveDecoder, LivePlan, in_less_memory, live_config, live_team, report_blocks
from .loaders import DTYPES, AudioEncoder, apply_lora, load_diffusion_model, load_text_encoder, load_vae
from .memory import run_encoder, take_memory_peak, take_others_off_gpu
from .model import PRECISIONS, with_s2v_forward
from .runtime import (
    ConnectedPose,
    PlaceInList,
    file_of_video,
    find_file,
    free_host_memory,
    metadata_enabled,
    new_output_file,
    open_video,
    place_in_list,
    png_info,
    raise_if_interrupted,
    require_file,
    source_video,
    versions,
)
from .sampling import SAMPLER_NAMES, ClipSampler, SamplerSettings
from .vae import RunVae, decode_latents, encode_pixels, require_wan_vae

__all__ = [
    "ATTENTIONS",
    "DTYPES",
    "ONE_GPU",
    "PRECISIONS",
    "SAMPLER_NAMES",
    "SPEEDS",
    "AudioEncoder",
    "ClipSampler",
    "ConnectedPose",
    "GpusAhead",
    "LiveDecoder",
    "LivePlan",
    "PlaceInList",
    "RunVae",
    "SamplerSettings",
    "apply_lora",
    "assumed_facts",
    "decode_latents",
    "device_facts",
    "encode_pixels",
    "file_of_video",
    "file_shower",
    "find_file",
    "free_host_memory",
    "gpus_ahead",
    "in_less_memory",
    "live_config",
    "live_team",
    "load_diffusion_model",
    "load_text_encoder",
    "load_vae",
    "metadata_enabled",
    "model_facts",
    "new_output_file",
    "open_video",
    "place_in_list",
    "place_rings",
    "png_info",
    "raise_if_interrupted",
    "report_blocks",
    "require_attention",
    "require_file",
    "require_memory",
    "require_wan_vae",
    "run_encoder",
    "share_reporter",
    "show_computation",
    "source_video",
    "take_memory_peak",
    "take_others_off_gpu",
    "text_display",
    "vae_value_bytes",
    "versions",
    "with_s2v_forward",
]
