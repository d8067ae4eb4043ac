"""The tiny transformer of the golden set as a checkpoint file, and the two ways to load one."""

import gc
import json
import threading
from typing import NamedTuple

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


class Remains(NamedTuple):
    """What is there once all that can go has gone; patchers: MODELs and their like."""

    threads: int
    tensors: int
    patchers: int


def what_remains():
    import comfy.model_management
    import comfy.model_patcher

    gc.collect()
    comfy.model_management.cleanup_models()
    kinds = [type(thing) for thing in gc.get_objects()]
    patchers = sum(issubclass(kind, comfy.model_patcher.ModelPatcher) for kind in kinds)
    return Remains(threading.active_count(), kinds.count(torch.Tensor), patchers)
