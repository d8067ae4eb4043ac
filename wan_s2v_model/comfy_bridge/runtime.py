"""The small things that nodes ask ComfyUI for."""

import comfy.cli_args
import comfy.latent_formats
import comfy.model_management
import torch

LATENT_FORMAT = comfy.latent_formats.Wan21()


def raise_if_interrupted() -> None:
    """Raise ComfyUI's interrupt (a BaseException) when the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def metadata_enabled() -> bool:
    """Whether the user lets ComfyUI write workflows into files."""
    return not comfy.cli_args.args.disable_metadata


def free_host_memory() -> int:
    """Bytes of main memory that are free."""
    return comfy.model_management.get_free_memory(torch.device("cpu"))
