"""A chain whose picture flashes where the conditioning hears a sound.

Encoder: loudness per wav2vec2 frame, in every layer and channel. Model: predicts latents whose first four channels are the loudness in
the four audio slots of each latent frame. VAE: four channels are the brightness of four frames, in Wan's causal layout.
"""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import ClassVar

import comfy.latent_formats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

logger = logging.getLogger("stand_ins")

WINDOW, HOP = 400, 320  # samples under one wav2vec2 frame, and between two
LAYERS, CHANNELS = 25, 32
FRAMES_PER_LATENT = 4
PIXELS_PER_LATENT = 8


class LoudnessEncoder:
    """Takes the place of wav2vec2 in an AUDIO_ENCODER; its weights are this file."""

    file, dtype = Path(__file__), torch.float32

    def hidden_layers(self, waveform: Tensor) -> Tensor:
        """[T] at 16 kHz -> [25, frames, 32], the loudest frame is 1."""
        loudness = waveform.unfold(0, WINDOW, HOP).square().mean(dim=1).sqrt()
        return (loudness / loudness.max().clamp_min(1e-6)).expand(CHANNELS, LAYERS, -1).movedim(0, -1).contiguous()


class FlashVAE(nn.Module):
    """Takes the place of the Wan VAE's network; values in [-1, 1] as there."""

    def encode(self, pixels: Tensor, **_: object) -> Tensor:
        """[B, 3, T, H, W] -> [B, 16, 1 + (T - 1) / 4, H / 8, W / 8]."""
        frames = F.avg_pool2d(pixels.float().mean(dim=1) / 2 + 0.5, PIXELS_PER_LATENT)  # [B, T, h, w]
        frames = torch.cat([frames[:, :1].expand(-1, FRAMES_PER_LATENT - 1, -1, -1), frames], dim=1)
        frames = frames[:, : frames.shape[1] // FRAMES_PER_LATENT * FRAMES_PER_LATENT]
        latents = frames.unflatten(1, (-1, FRAMES_PER_LATENT)).movedim(2, 1)  # [B, 4, F, h, w]
        return F.pad(latents, (0, 0, 0, 0, 0, 0, 0, 12))

    def decode(self, latents: Tensor, **_: object) -> Tensor:
        """[B, 16, F, h, w] -> [B, 3, 4F - 3, 8h, 8w]."""
        frames = latents[:, :FRAMES_PER_LATENT].movedim(1, 2).flatten(1, 2)[:, FRAMES_PER_LATENT - 1 :]  # [B, 4F - 3, h, w]
        pixels = frames.repeat_interleave(PIXELS_PER_LATENT, -1).repeat_interleave(PIXELS_PER_LATENT, -2)
        return (pixels * 2 - 1)[:, None].expand(-1, 3, -1, -1, -1).contiguous()


class StandInAudioEncoder:
    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("AUDIO_ENCODER",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {}})

    def make(self):
        return (LoudnessEncoder(),)


class StandInVAE:
    """The connected VAE with another network in it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("VAE",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"vae": ("VAE",)}})

    def make(self, vae):
        vae = copy.copy(vae)
        vae.first_stage_model = FlashVAE()
        return (vae,)


class StandInModel:
    """The connected MODEL with another prediction: x0 is the loudness it is told."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("MODEL",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def make(self, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(predict_loudness)
        return (model,)


def predict_loudness(apply_model, arguments) -> Tensor:
    x = arguments["input"]
    slots = arguments["c"]["audio_embed"].float().mean(dim=(-3, -2))[..., : FRAMES_PER_LATENT * x.shape[2]]  # [B, 4F] or [B, speakers, 4F]
    told = slots.unflatten(-1, (-1, FRAMES_PER_LATENT)).movedim(-1, -2)  # [B, 4, F] or [B, speakers, 4, F]
    wanted = torch.zeros_like(x)
    if told.ndim == 3:
        wanted[:, :FRAMES_PER_LATENT] = told[..., None, None]
    else:
        regions = arguments["c"]["transformer_options"]["wan_s2v_regions"]
        wanted[:, :FRAMES_PER_LATENT] = heard_in_regions(told, regions.hearers(x.device), x.shape[-2] // 2, x.shape[-1] // 2)
    return comfy.latent_formats.Wan21().process_in(wanted)


def heard_in_regions(told: Tensor, hearers: list, rows: int, columns: int) -> Tensor:
    """What each token is told by those it hears, [B, speakers, 4, F] -> [B, 4, F, 2 * rows, 2 * columns]."""
    frame = rows * columns
    tokens = told.new_zeros(told.shape[0], FRAMES_PER_LATENT, told.shape[3] * frame)
    for speaker, each in zip(told.unbind(1), hearers, strict=True):
        everywhere = speaker.repeat_interleave(frame, dim=2)
        tokens += (
            everywhere
            if each is None
            else torch.zeros_like(tokens).index_add_(2, each.rows, everywhere[..., each.rows] * each.weights[:, 0])
        )
    return tokens.unflatten(2, (-1, rows, columns)).repeat_interleave(2, -1).repeat_interleave(2, -2)


class StandInPoseModel:
    """The connected MODEL with another prediction: x0 is the pose it is told, black without one."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("MODEL",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def make(self, model):
        black = comfy.latent_formats.Wan21().process_in
        model = model.clone()
        model.set_model_unet_function_wrapper(
            lambda apply_model, arguments: arguments["c"].get("control_video", black(torch.zeros_like(arguments["input"])))
        )
        return (model,)


class StandInAttention:
    """An attention override that says how often it was asked."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("MODEL",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"model": ("MODEL",), "scale": ("FLOAT", {"default": 1.0})}})

    def make(self, model, scale):
        calls = 0

        def override(function, *args, **kwargs):
            nonlocal calls
            calls += 1
            logger.info("stand-in attention, call %d", calls)
            return function(*args, **kwargs) * scale

        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = override
        return (model,)
