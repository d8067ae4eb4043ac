"""VAE passes and the small things that nodes ask ComfyUI for."""

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS

LATENT_FORMAT = comfy.latent_formats.Wan21()


def require_wan_vae(vae: comfy.sd.VAE) -> None:
    """Raise ValueError unless the VAE is Wan2.1's."""
    channels, dimensions = getattr(vae, "latent_channels", None), getattr(vae, "latent_dim", None)
    if channels != LATENT_CHANNELS or dimensions != 3:
        raise ValueError(
            f"Wan S2V needs the Wan2.1 VAE (16 channels, video); the connected one has {channels} channels. Load wan_2.1_vae.safetensors."
        )


def encode_pixels(vae: comfy.sd.VAE, frames: Tensor) -> Tensor:
    """[T, H, W, 3] in [0, 1] -> [1, 16, F, h, w] normalised latents, float32 on the CPU."""
    raise_if_interrupted()
    return LATENT_FORMAT.process_in(vae.encode(frames).float().cpu())


def decode_latents(vae: comfy.sd.VAE, latents: Tensor) -> Tensor:
    """[1, 16, F, h, w] normalised latents -> [4F - 3, H, W, 3] in [0, 1], float32 on the CPU."""
    raise_if_interrupted()
    return vae.decode(LATENT_FORMAT.process_out(latents))[0].float().cpu()


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt (a BaseException) when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def metadata_enabled() -> bool:
    """Whether the user lets ComfyUI write workflows into files."""
    return not comfy.cli_args.args.disable_metadata


def free_host_memory() -> int:
    """Bytes of main memory that are free."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))
