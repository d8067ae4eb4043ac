"""The only door to ComfyUI's internals: no other module of the package imports `comfy`. Written against ComfyUI 0.30."""

from .loaders import DTYPES, AudioEncoder, load_diffusion_model, load_text_encoder, load_vae
from .model import ATTENTIONS, PRECISIONS, with_s2v_forward
from .runtime import decode_latents, encode_pixels, free_host_memory, metadata_enabled, raise_if_interrupted, require_wan_vae
from .sampling import SAMPLER_NAMES, ClipSampler, SamplerSettings

__all__ = [
    "ATTENTIONS",
    "DTYPES",
    "PRECISIONS",
    "SAMPLER_NAMES",
    "AudioEncoder",
    "ClipSampler",
    "SamplerSettings",
    "decode_latents",
    "encode_pixels",
    "free_host_memory",
    "load_diffusion_model",
    "load_text_encoder",
    "load_vae",
    "metadata_enabled",
    "raise_if_interrupted",
    "require_wan_vae",
    "with_s2v_forward",
]
