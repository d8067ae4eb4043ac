"""The tiny transformer of the golden set as a checkpoint file, and the two ways to load one."""

import json

import torch
from safetensors.torch import save_file

OPTIONS = {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"}


def save_checkpoint(tensors, golden_folder, path):
    """Write tensors in float32 as a single file with the metadata that ComfyUI's loader reads."""
    config = json.loads((golden_folder / "tiny_s2v.config.json").read_text())
    metadata = {"config": json.dumps({"transformer": {key: config[key] for key in ("text_dim", "audio_dim", "audio_inject_layers")}})}
    save_file({name: tensor.float() for name, tensor in tensors.items()}, path, metadata=metadata)
    return str(path)


def load_ours(bridge, path):
    return bridge.load_diffusion_model(path, OPTIONS)


def load_native(bridge, path):
    import comfy.sd

    return comfy.sd.load_diffusion_model(path, {"dtype": torch.float32})
