"""Starts ComfyUI's memory management and loads this pack, without a server. Import nothing that needs torch before `start`."""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def start(dynamic_vram: bool = True):
    """Set up as ComfyUI's main does; return our `comfy_bridge` module. COMFYUI_PATH names the ComfyUI folder."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", str(ROOT / ".comfyui")))
    sys.argv = sys.argv[:1]
    if dynamic_vram:
        import comfy_aimdo.control

        comfy_aimdo.control.init()  # has to happen before torch is imported
    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()  # for a trial, with the attention that ComfyUI takes on a GPU
    comfy.cli_args.args.use_pytorch_cross_attention = comfy.cli_args.args.cpu
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    if dynamic_vram:
        devices = comfy.model_management.get_all_torch_devices()
        if not comfy_aimdo.control.init_devices((device.index, 0) for device in devices):
            raise RuntimeError("comfy-aimdo did not start: no dynamic VRAM on this machine. Run with --legacy.")
        comfy_aimdo.control.set_log_warning()
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
    return load_pack(ROOT)


def tiny_models():
    """The script that makes random models, as a module."""
    sys.path.insert(0, str(ROOT))
    return importlib.import_module("scripts.tiny_models.make")


def load_pack(root: Path, name: str = "wan_s2v_pack"):
    """The `comfy_bridge` of a checkout, which gets a package name of its own."""
    register_pack(root, name)
    return importlib.import_module(f"{name}.wan_s2v_model.comfy_bridge")


def register_pack(root: Path = ROOT, name: str = "wan_s2v_pack") -> None:
    """Make a checkout importable under a name, without ComfyUI."""
    spec = importlib.util.spec_from_file_location(name, root / "__init__.py", submodule_search_locations=[str(root)])
    sys.modules[name] = importlib.util.module_from_spec(spec)  # not executed: nodes need the server
