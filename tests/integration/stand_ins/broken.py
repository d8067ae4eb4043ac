"""Inputs that no file gives: empty, silent, not a number, very large."""

from __future__ import annotations

from typing import ClassVar

import torch

RATE_HZ = 16_000
AUDIO_KINDS = ("tone", "silent", "empty", "nan", "stereo", "int16", "channels last", "flat", "no rate")


class StandInAudio:
    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("AUDIO",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"kind": (AUDIO_KINDS,), "seconds": ("FLOAT", {"default": 1.0})}})

    def make(self, kind, seconds):
        num_samples = 0 if kind == "empty" else round(seconds * RATE_HZ)
        waveform = torch.zeros(1, 2 if kind in ("stereo", "channels last") else 1, num_samples)
        if kind not in ("silent", "empty"):
            waveform += 0.3 * torch.sin(torch.arange(num_samples) * (2 * torch.pi * 220 / RATE_HZ))
        if kind == "nan":
            waveform[..., num_samples // 2] = torch.nan
        shaped = {
            "int16": lambda: (waveform * 32767).to(torch.int16),
            "channels last": lambda: waveform.transpose(1, 2),
            "flat": lambda: waveform[0, 0],
        }.get(kind, lambda: waveform)()
        return ({"waveform": shaped, "sample_rate": None if kind == "no rate" else RATE_HZ},)


class StandInImages:
    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("IMAGE",)
    INPUT_TYPES: ClassVar = classmethod(
        lambda cls: {
            "required": {"count": ("INT", {"min": 0})},
            "optional": {"width": ("INT", {"min": 0}), "height": ("INT", {"min": 0}), "nan": ("BOOLEAN",)},
        }
    )

    def make(self, count, width=96, height=64, nan=False):
        images = torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(0))
        if nan:
            images[-1, 0, 0, 0] = torch.nan
        return (images,)


class StandInConditioning:
    """The connected CONDITIONING with a NaN in it."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("CONDITIONING",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"conditioning": ("CONDITIONING",)}})

    def make(self, conditioning):
        return ([[tensor * torch.nan, options] for tensor, options in conditioning],)


class StandInNaNModel:
    """The connected MODEL, predicting NaN."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "make", ("MODEL",)
    INPUT_TYPES: ClassVar = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def make(self, model):
        model = model.clone()
        model.set_model_unet_function_wrapper(lambda apply_model, arguments: arguments["input"] * torch.nan)
        return (model,)
