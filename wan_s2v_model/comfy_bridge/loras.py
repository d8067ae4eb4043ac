"""Puts LoRA files on a MODEL, through ComfyUI's patches."""

import logging
from pathlib import Path

import comfy.lora
import comfy.model_patcher

from ..checkpoints.lora import read_lora
from ..checkpoints.lora_settings import read_settings
from ..checkpoints.s2v import expected_shapes
from .loaders import read_weights
from .model import s2v_config
from .raw_parameters import ROOT, patch_raw_parameters

logger = logging.getLogger("wan_s2v")


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
    return model, lora.report()
