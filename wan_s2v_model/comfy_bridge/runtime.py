"""VAE passes and the small things that nodes ask ComfyUI for."""

from collections.abc import Iterator

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import comfy.sd
import torch
from comfy.ldm.wan.vae import WanVAE, count_cache_layers
from torch import Tensor

from ..constants import LATENT_CHANNELS

LATENT_FORMAT = comfy.latent_formats.Wan21()
LATENTS_AT_ONCE = 2  # behind the first one, as ComfyUI's own loop


def require_wan_vae(vae: comfy.sd.VAE) -> None:
    """Raise ValueError unless the VAE is Wan2.1's."""
    channels, dimensions = getattr(vae, "latent_channels", None), getattr(vae, "latent_dim", None)
    if channels != LATENT_CHANNELS or dimensions != 3:
        raise ValueError(
            f"Wan S2V needs the Wan2.1 VAE (16 channels, video); the connected one has {channels} channels. Load wan_2.1_vae.safetensors."
        )


def encode_pixels(vae: comfy.sd.VAE, frames: Tensor) -> Tensor:
    """[T, H, W, 3] in [0, 1] -> [1, 16, F, h, w] normalised latents, float32 on the CPU.

    Out of memory this raises, where ComfyUI's own call would go over to tiles, which changes the latents.
    """
    raise_if_interrupted()
    network = vae.first_stage_model
    if not isinstance(network, WanVAE):
        return LATENT_FORMAT.process_in(vae.encode(frames).float().cpu())
    pixels = vae.process_input(frames).movedim(-1, 0)[None]  # [T, H, W, 3] -> [1, 3, T, H, W]
    _load(vae, vae.memory_used_encode(pixels.shape, vae.vae_dtype))
    with comfy.model_management.cuda_device_context(vae.device):
        return LATENT_FORMAT.process_in(network.encode(pixels.to(vae.device, vae.vae_dtype)).float().cpu())


def decode_latents(vae: comfy.sd.VAE, latents: Tensor) -> Tensor:
    """[1, 16, F, h, w] normalised latents -> [4F - 3, H, W, 3] in [0, 1], float32 on the CPU."""
    return torch.cat(list(stream_frames(vae, latents)))


def stream_frames(vae: comfy.sd.VAE, latents: Tensor) -> Iterator[Tensor]:
    """Decode latents two at a time, with the causal cache of the decoder: exact, interruptible, and only 8 frames on the GPU.

    ComfyUI's own call keeps all frames on the GPU and, out of memory, goes over to tiles that start anew in time. A VAE with another
    network inside is decoded by its own call.

    Yields:
        [T, H, W, 3] in [0, 1], float32 on the CPU; T is 1, then 8, in the end 4 or 8.
    """
    raw, network = LATENT_FORMAT.process_out(latents), vae.first_stage_model
    if not isinstance(network, WanVAE):
        yield vae.decode(raw)[0].float().cpu()
        return
    _load(vae, vae.memory_used_decode(raw.shape, vae.vae_dtype))
    with comfy.model_management.cuda_device_context(vae.device):
        features = network.conv2(raw.to(vae.device, vae.vae_dtype))
        cache = [None] * count_cache_layers(network.decoder)
        for start in (0, *range(1, features.shape[2], LATENTS_AT_ONCE)):
            raise_if_interrupted()
            part = features[:, :, start : start + LATENTS_AT_ONCE if start else 1]
            frames = torch.cat(network.decoder(part, feat_cache=cache, feat_idx=[0]), dim=2)
            yield vae.process_output(frames.float().cpu())[0].movedim(0, -1)


def _load(vae: comfy.sd.VAE, needed_bytes: float) -> None:
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed_bytes, force_full_load=vae.disable_offload)


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt (a BaseException) when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def metadata_enabled() -> bool:
    """Whether the user lets ComfyUI write workflows into files."""
    return not comfy.cli_args.args.disable_metadata


def free_host_memory() -> int:
    """Bytes of main memory that are free."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))
