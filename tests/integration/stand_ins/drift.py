"""A chain that drifts: each clip is the last frame of the one before with another contrast and brightness.

VAE: twelve channels are four frames of red, green and blue, in Wan's causal layout; it loses nothing but detail. Model: predicts the newest
frame it continues from, or the picture, with `gain` and `offset` from the second clip on.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import comfy.latent_formats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES_PER_LATENT = 4
COLOURS = 3
USED_CHANNELS = FRAMES_PER_LATENT * COLOURS
PIXELS_PER_LATENT = 8
SHARES = (1.0, 0.6, 0.2)  # of the offset, for red, green and blue
NUMBER = ("FLOAT", {"default": 0.0, "min": -1.0, "max": 2.0, "step": 1e-4})


class ColourVAE(nn.Module):
    """Takes the place of the Wan VAE's network; values in [-1, 1] as there."""

    def encode(self, pixels: Tensor, **_: object) -> Tensor:
        """[B, 3, T, H, W] -> [B, 16, 1 + (T - 1) / 4, H / 8, W / 8]."""
        frames = F.avg_pool3d(pixels.float(), (1, PIXELS_PER_LATENT, PIXELS_PER_LATENT)).movedim(2, 1)  # [B, T, 3, h, w]
        frames = torch.cat([frames[:, :1].expand(-1, FRAMES_PER_LATENT - 1, -1, -1, -1), frames], dim=1)
        frames = frames[:, : frames.shape[1] // FRAMES_PER_LATENT * FRAMES_PER_LATENT]
        latents = frames.unflatten(1, (-1, FRAMES_PER_LATENT)).flatten(2, 3).movedim(2, 1)  # [B, 12, F, h, w]
        return F.pad(latents, (0, 0, 0, 0, 0, 0, 0, 16 - USED_CHANNELS))

    def decode(self, latents: Tensor, **_: object) -> Tensor:
        """[B, 16, F, h, w] -> [B, 3, 4F - 3, 8h, 8w]."""
        frames = latents[:, :USED_CHANNELS].movedim(1, 2).unflatten(2, (FRAMES_PER_LATENT, COLOURS)).flatten(1, 2)  # [B, 4F, 3, h, w]
        pixels = frames[:, FRAMES_PER_LATENT - 1 :].movedim(1, 2)
        return pixels.repeat_interleave(PIXELS_PER_LATENT, -1).repeat_interleave(PIXELS_PER_LATENT, -2).contiguous()


class StandInColourVAE:
    """The connected VAE with another network in it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("VAE",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"vae": ("VAE",)}})

    def make(self, vae):
        vae = copy.copy(vae)
        vae.first_stage_model = ColourVAE()
        return (vae,)


class StandInDriftingModel:
    """The connected MODEL with another prediction."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("MODEL",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"model": ("MODEL",), "gain": NUMBER, "offset": NUMBER}})

    def make(self, model, gain, offset):
        shift = torch.tensor(SHARES).repeat(FRAMES_PER_LATENT)[:, None, None, None] * offset * 2  # levels in [0, 1] -> in [-1, 1]
        latent_format = comfy.latent_formats.Wan21()

        def predict(apply_model, arguments) -> Tensor:
            x, given = arguments["input"], arguments["c"]
            motion = given.get("reference_motion")
            before = latent_format.process_out(given["reference_latent"] if motion is None else motion).float()
            last = before[:, USED_CHANNELS - COLOURS : USED_CHANNELS, -1:].repeat(1, FRAMES_PER_LATENT, x.shape[2], 1, 1)
            if motion is not None:
                last = (last + 1) * gain - 1 + shift.to(x)  # black stays black
            wanted = torch.zeros_like(x)
            wanted[:, :USED_CHANNELS] = last
            return latent_format.process_in(wanted)

        model = model.clone()
        model.set_model_unet_function_wrapper(predict)
        return (model,)
